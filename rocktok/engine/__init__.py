"""Runs accumulators over the shards of a log."""
