"""Similar windows, counted exactly: arrays in, numbers out."""
