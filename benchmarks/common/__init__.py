"""What several benchmarks share: data, models to train, the head of an output, goals."""
