"""Short measurements before a training: of steps on a GPU, or of the CPU that launches them."""
