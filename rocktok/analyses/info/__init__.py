"""What is in a log: steps, sequences, columns, gaps, damage."""
