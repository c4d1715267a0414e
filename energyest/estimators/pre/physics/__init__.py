"""The physics of a training step: its time, and the power of the GPU."""
