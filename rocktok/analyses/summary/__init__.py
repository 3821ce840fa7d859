"""What came of each of several runs, one line a run."""
