"""Whether a run is healthy: what commonly goes wrong in distillation, looked for in its log."""
