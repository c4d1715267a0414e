"""The simulated NVML, at the address that programs outside the repository know."""

from simulation.fake_nvml import FakeNvml, build, compiler_available, environment

__all__ = ["FakeNvml", "build", "compiler_available", "environment"]
