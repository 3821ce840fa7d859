"""Persistent occurrences one by one: which are retained, and by which partners."""
