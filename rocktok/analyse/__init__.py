"""One module per question: arrays in, frozen dataclass out. Opens no file."""
