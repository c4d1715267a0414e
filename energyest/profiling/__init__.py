"""Model to workload: what a training step does, counted, described or timed."""
