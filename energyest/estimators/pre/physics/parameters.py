"""Parameters of the physical model that are fitted to measurements, and their priors.

Each entry is a first guess and the standard deviation of its logarithm: the true value may well
differ from the guess by a factor of e^±deviation. Guesses are orders of magnitude from data sheets
and from torch's usual launch rates; a fit to real trainings moves them.
"""

from __future__ import annotations

FORMATS = ("fp32", "tf32", "half")


Guess = tuple[float, float]


def _each(name: str, guesses: tuple[float, float, float], deviation: float) -> dict[str, Guess]:
    return {f"{name}_{f}": (v, deviation) for f, v in zip(FORMATS, guesses, strict=True)}


STEP: dict[str, Guess] = {
    # Share of the peak arithmetic rate that large operations reach.
    **_each("peak_matmul", (0.8, 0.6, 0.6), 0.5),
    **_each("peak_conv", (0.7, 0.4, 0.4), 0.5),
    **_each("peak_grouped", (0.3, 0.15, 0.1), 0.8),
    "peak_depthwise": (0.03, 0.7),  # of fp32 in any precision: it runs on the fp32 lanes
    **_each("peak_attention", (0.5, 0.2, 0.3), 0.7),
    "peak_recurrent": (0.3, 1.0),
    "weight_gradient": (0.8, 0.3),  # of a convolution, relative to forward
    # Share of the peak memory rate.
    "bandwidth_matmul": (0.7, 0.3),
    "bandwidth_conv": (0.6, 0.5),
    "bandwidth_conv_half": (0.5, 0.5),  # relative to that, with two-byte numbers
    "bandwidth_grouped": (0.5, 0.5),
    "bandwidth_grouped_half": (0.5, 0.5),
    "bandwidth_depthwise": (0.5, 0.5),
    "bandwidth_depthwise_half": (0.3, 0.7),
    "bandwidth_depthwise_gradient": (0.5, 0.5),
    "bandwidth_attention": (0.5, 0.5),
    "bandwidth_norm": (0.6, 0.3),
    "bandwidth_other": (0.75, 0.2),
    "bandwidth_half": (0.9, 0.2),
    "cache": (0.5, 0.7),  # speed-up of data that fit into the cache
    "optimizer": (1.5, 0.4),  # memory passes per number, relative to one
    # Exponents: if tensor units or memory are narrower than Hopper's, per multiprocessor and clock,
    # a larger share is reached.
    "narrow_matmul": (0.2, 0.7),
    "narrow_conv": (0.4, 0.7),
    "slow_memory": (0.25, 0.7),
    "slow_memory_depthwise": (0.5, 0.7),
    # NHWC relative to NCHW, in two-byte formats: shares of the peak and of the memory rate.
    "channels_last_conv": (1.3, 0.3),
    "channels_last_conv_bytes": (1.3, 0.3),
    "channels_last_grouped_bytes": (1.3, 0.3),
    "channels_last_depthwise_bytes": (1.3, 0.5),
    "depthwise_fp16": (1.5, 0.5),  # relative to bf16, in NCHW
    # Compiled relative to not compiled: bytes of fused operations, the CPU's time for them, and for
    # products and tensors; and CPU seconds per step.
    "compiled_bytes": (0.5, 0.4),
    "compiled_calls": (0.3, 0.5),
    "compiled_products": (1.0, 0.3),
    "compiled_step_s": (5e-4, 0.7),
    # Exponents of the GPU's occupancy, and sizes at which half of the lanes idle.
    "fill_matmul": (0.5, 0.5),
    "fill_conv": (0.5, 0.5),
    "split": (0.5, 0.5),
    "thin_columns": (16.0, 1.0),
    "thin_depth": (32.0, 1.0),
    # Exponent of the lower clock of a board with less power than others with the same chip. For a
    # power limit, it is a third (`limits.py`).
    "clock": (0.33, 0.3),
    # Seconds to start an operation on the GPU, and each step of a recurrent one.
    "start_s": (3e-6, 0.4),
    "start_conv_s": (8e-6, 0.5),
    "start_recurrent_s": (3e-5, 0.7),
    # CPU seconds per operation, view, module, trained tensor, and optimizer state of a tensor.
    "call_conv_s": (3e-5, 0.7),
    "call_norm_s": (2e-5, 0.7),
    "call_matmul_s": (2e-5, 0.7),
    "call_other_s": (1e-5, 0.7),
    "call_view_s": (4e-6, 0.7),
    "call_module_s": (6e-6, 0.7),
    "call_tensor_s": (1.2e-5, 0.7),
    "call_state_s": (3e-6, 0.7),
    "call_step_s": (3e-4, 0.3),
    "call_lightning_s": (5e-4, 0.7),
    "call_scaler_s": (3e-4, 0.7),
    "host_bytes_per_s": (2.5e10, 0.4),
    "overlap": (4.0, 0.4),  # exponent of the norm that combines GPU and CPU time
}

# Shares of the board's power.
POWER: dict[str, Guess] = {
    "rest": (0.16, 0.3),
    "busy": (0.05, 0.7),
    "math": (0.1, 0.7),  # while arithmetic is the limit
    "memory": (0.1, 0.7),  # while memory traffic is the limit
    **_each("flops", (0.9, 1.3, 1.0), 0.5),  # at the peak arithmetic rate
    "conv": (1.0, 0.5),  # of convolutions, relative to others
    "bytes": (0.5, 0.5),  # at the peak memory rate
    "cap": (0.95, 0.1),
    "sharpness": (4.0, 0.5),
}
