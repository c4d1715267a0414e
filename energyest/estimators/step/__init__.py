"""STEP: estimates a whole training from the epochs measured so far."""
