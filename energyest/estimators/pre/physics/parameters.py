"""Parameters of the physical model that are fitted to measurements, and their priors.

Each entry is a first guess and the standard deviation of its logarithm: the true value may well
differ from the guess by a factor of e^±deviation. Guesses are orders of magnitude from data sheets
and from torch's usual launch rates; a fit to real trainings moves them.
"""

from __future__ import annotations

from energyest.estimators.pre.physics.kinds import KINDS

FORMATS = ("fp32", "tf32", "half")


Guess = tuple[float, float]
Parameters = dict[str, float]


def _each(name: str, guesses: tuple[float, float, float], deviation: float) -> dict[str, Guess]:
    return {f"{name}_{f}": (v, deviation) for f, v in zip(FORMATS, guesses, strict=True)}


# Share of the peak memory rate by kind of operation.
_BANDWIDTH = {
    "matmul": 0.7,
    "conv": 0.5,
    "grouped": 0.3,
    "depthwise": 0.5,
    "attention": 0.5,
    "recurrent": 0.7,
    "batch_norm": 0.4,
    "layer_norm": 0.5,
    "softmax": 0.5,
    "sum": 0.4,
    "pooling": 0.3,
    "average_pooling": 0.15,
    "lookup": 0.3,
    "reordering": 0.5,
    "other": 0.8,
}

# The GPU's time for single operations.
OPERATION: dict[str, Guess] = {
    # Share of the peak arithmetic rate that large operations reach.
    **_each("peak_matmul", (0.8, 0.6, 0.6), 0.5),
    **_each("peak_conv", (0.7, 0.4, 0.4), 0.5),
    **_each("peak_grouped", (0.3, 0.3, 0.3), 0.8),
    "peak_depthwise": (0.05, 0.7),  # of fp32 in any precision: it runs on the fp32 lanes
    "peak_native_depthwise": (0.03, 0.7),  # torch's own kernel
    "plain_conv": (0.8, 0.3),  # in fp32, not 3 x 3
    # Sizes that do not fill tensor units; and in half precision, odd sizes, relative to these.
    "unaligned_conv": (0.5, 0.5),
    "unaligned_conv_bytes": (0.6, 0.5),
    "unaligned_matmul": (0.5, 0.5),
    "odd_matmul": (0.5, 0.5),
    "grouped_matmul": (0.5, 0.5),  # several in one kernel, as for a mixture of experts
    # Plain convolutions on tensor units: filters of 1 x 1, relative to others; the gradients of
    # those that move by two positions; and in NHWC, tf32 relative to half precision.
    "pointwise_conv": (1.2, 0.4),
    "gradient_strided": (0.7, 0.4),
    "channels_last_tf32": (0.8, 0.4),
    # The first convolution, with few channels: shares of the peak and of the memory rate.
    "first_conv": (0.4, 0.5),
    "first_conv_bytes": (0.6, 0.5),
    "patches": (0.3, 0.5),  # if it cuts images into patches, beside these
    **_each("peak_attention", (0.5, 0.2, 0.3), 0.7),
    "peak_recurrent": (0.3, 1.0),
    # The backward pass relative to the forward pass: shares of the peak and of the memory rate.
    "weight_gradient": (0.8, 0.3),
    "gradient_grouped": (0.7, 0.5),
    "gradient_depthwise": (0.7, 0.5),
    "gradient_native_depthwise": (0.7, 0.5),
    "gradient_attention": (0.8, 0.5),
    **{f"gradient_{kind}_bytes": (0.9, 0.4) for kind in KINDS},
    # NHWC relative to NCHW: the same.
    "channels_last_conv": (1.3, 0.4),
    "channels_last_grouped": (1.3, 0.5),
    "channels_last_depthwise": (1.3, 0.5),
    "channels_last_depthwise_fp32": (0.3, 0.7),  # relative to half precision
    **{f"channels_last_{kind}_bytes": (1.1, 0.4) for kind in KINDS},
    # Share of the peak memory rate, and two-byte formats relative to fp32.
    **{f"bandwidth_{kind}": (share, 0.5) for kind, share in _BANDWIDTH.items()},
    **{f"half_{kind}_bytes": (0.9, 0.4) for kind in KINDS},
    # Batch normalisations: bf16 relative to fp16 in both passes, and NHWC, beside the share of its
    # kind above, in the backward pass.
    "batch_norm_bf16": (0.6, 0.4),
    "gradient_batch_norm_bf16": (0.6, 0.4),
    "channels_last_gradient_batch_norm": (1.2, 0.4),
    # Sizes of a convolution's product at which it uses half of what it fetches.
    "few_outputs": (32.0, 1.0),
    "few_inputs": (32.0, 1.0),
    # Channels of a batch normalisation, relative to the multiprocessors, that keep the GPU busy.
    "channels_batch_norm": (1.5, 0.5),
    "thin_batch_norm": (8.0, 1.0),  # number of channels in NHWC that uses half of a multiprocessor
    "row_clocks": (300.0, 0.7),  # of a multiprocessor, for each row of a layer normalisation
    "gradient_row_clocks": (6.0, 0.7),  # for each row, to sum the gradients of its weights
    "cache": (0.5, 0.7),  # speed-up of data that fit into the cache
    # Exponents of the GPU's occupancy, and sizes at which half of the lanes idle.
    "fill_matmul": (0.5, 0.5),
    "fill_conv": (0.5, 0.5),
    "split": (0.5, 0.5),
    "thin_columns": (16.0, 1.0),
    "thin_columns_grouped": (64.0, 1.0),
    # Groups for which cuDNN has no kernel, relative to those for which it has one.
    "other_groups": (0.3, 0.7),
    "thin_depth": (32.0, 1.0),
    # Seconds of the shortest operation, and each step of a recurrent one.
    "start_s": (1.5e-6, 0.5),
    "start_conv_s": (8e-6, 0.5),
    "channels_last_conv_start": (0.5, 0.5),  # relative to that, in NHWC
    # Relative to these: filters of 1 x 1, depthwise ones, and channels that are padded.
    "start_pointwise": (0.7, 0.5),
    "start_depthwise": (0.7, 0.5),
    "start_unaligned_conv": (1.5, 0.5),
    "gradient_conv_start": (1.3, 0.5),  # of each gradient, relative to the forward pass
    "start_kernel_s": (3e-6, 0.5),  # of each further kernel of one operation
    "start_matmul_s": (4e-6, 0.5),
    "start_sum_s": (5e-6, 0.5),
    "start_norm_s": (5e-6, 0.5),
    "start_attention_s": (8e-6, 0.5),
    "start_sort_s": (4e-5, 0.5),  # of indices
    "step_recurrent_s": (2e-6, 0.7),  # where one kernel runs all steps
}

# Those that no timed operation shows: recurrent layers are measured in whole steps.
OF_RECURRENT = ("peak_recurrent", "step_recurrent_s", "bandwidth_recurrent")
# What only whole steps show.
STEP: dict[str, Guess] = OPERATION | {
    "gap_s": (1e-6, 0.5),  # from the end of an operation to the start of the next
    "optimizer": (1.0, 0.2),  # the optimizer's time relative to that of its memory traffic
    # Exponents: if tensor units or memory are narrower than Hopper's, per multiprocessor and clock,
    # a larger share is reached.
    "narrow_matmul": (0.2, 0.7),
    "narrow_conv_fp32": (0.2, 0.5),
    "narrow_conv_tf32": (0.4, 0.5),
    "narrow_conv_half": (0.4, 0.5),
    # GPUs before Ampere relative to others: tensor units, and in fp32 convolutions by Winograd's
    # algorithm and products.
    "older_tensor": (1.0, 0.3),
    "older_winograd": (1.0, 0.3),
    "older_matmul": (1.0, 0.3),
    # Kernels of grouped convolutions are the same on all generations.
    "narrow_grouped": (0.8, 0.3),
    "slow_memory": (0.25, 0.5),
    "slow_memory_conv": (0.25, 0.5),
    "slow_memory_others": (0.8, 0.3),  # normalisations, sums, pooling and the like
    "slow_memory_depthwise": (0.5, 0.7),
    # Compiled relative to not compiled: bytes of fused operations, the CPU's time for them, and for
    # products and tensors; and CPU seconds per step.
    "compiled_bytes": (0.5, 0.4),
    "compiled_calls": (0.3, 0.5),
    "compiled_products": (1.0, 0.3),
    "compiled_step_s": (5e-4, 0.7),
    # Exponent of the lower clock of a board with less power than others with the same chip. For a
    # power limit, it is a third (`limits.py`).
    "clock": (0.33, 0.3),
    # CPU seconds per operation, view, module, trained tensor, and optimizer state of a tensor.
    "call_conv_s": (3e-5, 0.7),
    "call_norm_s": (2e-5, 0.7),
    "call_matmul_s": (2e-5, 0.7),
    "call_other_s": (1e-5, 0.7),
    # Of each further kernel of one operation: for groups of a convolution, and for time steps.
    "call_group_s": (4e-6, 0.4),
    "call_time_step_s": (1.2e-5, 0.4),
    "call_view_s": (4e-6, 0.7),
    "call_module_s": (6e-6, 0.7),
    "call_tensor_s": (1.2e-5, 0.7),
    "call_state_s": (3e-6, 0.7),
    "call_step_s": (3e-4, 0.3),
    "call_lightning_s": (5e-4, 0.7),
    "call_scaler_s": (3e-4, 0.7),
    "host_bytes_per_s": (2.5e10, 0.4),
    "overlap": (4.0, 0.4),  # exponent of the norm that combines GPU and CPU time
    "overlap_if_waiting": (1.5, 0.4),  # the same where the CPU waits for the GPU within a step
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
