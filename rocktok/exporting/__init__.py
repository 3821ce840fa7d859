"""Tables of a log as files of other tools: Hugging Face datasets, CSV, JSONL, Arrow."""
