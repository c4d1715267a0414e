"""Walk through one training step of a copy of a model, using only shapes."""
