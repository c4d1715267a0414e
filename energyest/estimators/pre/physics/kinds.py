"""Kinds of operations: those of one kind reach similar shares of a GPU's peaks."""

from __future__ import annotations

from energyest.records.workload import Operation

KINDS = (
    "matmul",
    "conv",
    "grouped",
    "depthwise",
    "attention",
    "recurrent",
    "batch_norm",
    "layer_norm",
    "softmax",
    "sum",
    "pooling",
    "average_pooling",
    "lookup",
    "reordering",
    "other",
)
MATMUL, CONV, GROUPED, DEPTHWISE, ATTENTION, RECURRENT, BATCH_NORM, LAYER_NORM = range(8)
SOFTMAX, SUM, POOLING, AVERAGE_POOLING, LOOKUP, REORDERING, OTHER = range(8, len(KINDS))
# Outputs of a single input, at most, and taps of square filters, for a depthwise convolution.
_FEW_OUTPUTS, _TAPS = 4, (1, 9, 25, 49)
# Kinds that move data, by parts of torch's names; the first one that fits.
_POOLING = ("pool", "upsample", "grid_sampler", "im2col", "col2im")
_LOOKUP = ("embedding", "index", "gather", "scatter", "nll_loss2d", "take", "nonzero")
_REORDERING = (
    *("cat", "stack", "clone", "slice", "select", "roll", "repeat", "flip", "pad"),
    *("unfold", "tril", "triu"),
)
# Operations that sort indices, without underscores around their names.
_SORTING = {
    *("embedding_dense_backward", "embedding_bag_backward", "embedding_bag_dense_backward"),
    *("index_put", "index_put_impl", "unsafe_index_put"),
}
# Sums over some of the dimensions, by whole names.
_SUMS = {
    *("sum", "mean", "var", "var_mean", "std", "std_mean", "amax", "amin", "max", "min", "prod"),
    *("argmax", "argmin", "cumsum", "topk", "sort", "logsumexp", "any", "all", "norm"),
    "linalg_vector_norm",
}


def kind_of(operation: Operation) -> int:
    """The kind of an operation, as an index into `KINDS`."""
    name = operation.name
    if operation.steps > 1 or name.startswith(("lstm", "gru", "rnn")):
        return RECURRENT
    if "attention" in name:
        return ATTENTION
    if name.startswith("convolution"):
        if operation.groups == 1:
            return CONV
        return DEPTHWISE if _is_depthwise(operation) else GROUPED
    if operation.flops > 0:
        return MATMUL
    return _kind_of_moving(name)


def sorts_indices(operation: Operation) -> bool:
    """Whether torch sorts the indices, so that gradients of the same entry are summed.

    Up to 3,072 indices of an embedding are not sorted (aten/src/ATen/native/cuda/Embedding.cu), but
    an operation does not show their number.
    """
    return operation.phase == "backward" and operation.name.strip("_") in _SORTING


def passes_of(operation: Operation) -> int:
    """How often an operation passes over its data: twice if torch copies it first.

    `masked_fill` in aten/src/ATen/native/TensorAdvancedIndexing.cpp is a copy, filled in place. On
    an H200, it takes twice as long as others that read and write as much.
    """
    return 2 if operation.name == "masked_fill" else 1


def _is_depthwise(operation: Operation) -> bool:
    """Whether groups have one output, or a few of a single input.

    The depth is the number of taps then. That of groups with nine inputs and filters of 1 x 1, for
    example, is the same, but such groups are rare.
    """
    few = operation.columns <= _FEW_OUTPUTS and operation.depth in _TAPS
    return operation.columns == 1 or few


def _kind_of_moving(name: str) -> int:
    plain = name.removesuffix("_data").removesuffix("_backward").strip("_")
    if "norm" in plain and "linalg" not in plain and plain != "norm":
        return BATCH_NORM if "batch" in plain else LAYER_NORM
    if plain.endswith("softmax"):
        return SOFTMAX
    if plain in _SUMS:
        return SUM
    if "avg_pool" in plain:
        return AVERAGE_POOLING
    for kind, parts in ((POOLING, _POOLING), (LOOKUP, _LOOKUP), (REORDERING, _REORDERING)):
        if any(part in plain for part in parts):
            return kind
    return OTHER
