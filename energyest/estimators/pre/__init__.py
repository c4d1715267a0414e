"""Estimates before training: from what the model, the GPU and the settings are."""
