"""The parts of `benchmarks.evidence.overhead`, which runs each of them in a process of its own."""
