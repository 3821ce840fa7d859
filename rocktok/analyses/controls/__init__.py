"""Types, occurrences and windows that rocks can be compared with."""
