"""Short measurements before a training: of steps on the GPU, or of the CPU that launches them."""
