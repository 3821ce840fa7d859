"""How sure the rocks are, and whether another sample of prompts would rank the same types first."""
