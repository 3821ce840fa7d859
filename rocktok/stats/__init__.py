"""Accumulators, quantiles, bootstrap, contrasts, matching: arrays in, numbers out."""
