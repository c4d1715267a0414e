"""PRE: estimates before training, from the model, the GPU and the training settings."""
