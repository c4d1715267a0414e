"""STEP: a trace to an estimate of the whole training."""
