"""Code shared by several benchmarks: data, models to train, the head of an output, goals."""
