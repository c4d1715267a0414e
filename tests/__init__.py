"""Tests, in processes that share the processors: threads that wait for each other only spin."""

import os

# Before numpy and torch are imported, and for all processes that the tests start.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
