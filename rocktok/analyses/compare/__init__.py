"""Whether logs agree on their rocks."""
