"""Code shared by several benchmarks: data, the head of an output, goals."""
