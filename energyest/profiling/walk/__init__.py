"""Walking through one training step of a copy of a model, on shapes alone."""
