"""Whether another sample of prompts would rank the same types first."""
