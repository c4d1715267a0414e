"""Find the number of samples in a batch of any structure.

Each part of a batch gives candidates: a tensor its first dimension; a list of tensors either their
common first dimension (several inputs, or views of one) or its length (samples of different sizes).
The number of samples is the candidate on which the parts agree; None if there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass
from itertools import islice
from numbers import Number
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from energyest.profiling.batches import all_attributes

# The most items of a list that are inspected, and the depth, because this happens at every step.
_MOST_ITEMS, _MOST_DEPTH = 32, 8
# A single image has channels, height and width.
_CHANNELS, _LEAST_PIXELS = (1, 3, 4), 16
# If there are more tensors than a model has inputs, they are samples.
_MOST_INPUTS = 8

# Possible numbers, most likely first; empty if parts contradict each other, None if a part gives no
# evidence. If `_UNSURE` remains among them, another part must decide.
_Candidates = tuple[int, ...] | None
_UNSURE = -1
# Whether one part, or some, may decide where parts contradict each other.
_SOME_DECIDE: ContextVar[bool] = ContextVar("_SOME_DECIDE", default=True)


def batch_size(batch: Any, *, of_one_loader: bool = False) -> int | None:
    """Number of samples in a batch; None if nothing shows it or its parts do not agree.

    Supported are tensors and arrays; mappings, dataclasses, tuples and lists of them; several
    views; lists of samples of different sizes; packed sequences; and objects that state it, such as
    batches of graphs. Batches of several loaders side by side are summed.

    Args:
        batch: a batch as a data loader yields it.
        of_one_loader: the batch is known to come from a single loader, even if it looks like two
            batches.
    """
    if shape_of(batch) == ():
        return 1
    found = _candidates(batch, 0)
    if found and _UNSURE not in found:
        return found[0]
    return None if of_one_loader or found is None else _of_several_loaders(batch)


def is_contested(batch: Any) -> bool:
    """Whether parts of a batch contradict the number that `batch_size` finds."""
    before = _SOME_DECIDE.set(False)
    try:
        undisputed = batch_size(batch)
    finally:
        _SOME_DECIDE.reset(before)
    return undisputed != batch_size(batch)


def batch_size_by_loader(loaders: Any, batch: Any) -> int | None:
    """Number of samples in a batch combined from several loaders: the sum over loaders.

    Args:
        loaders: a loader, or mappings and lists of loaders.
        batch: the same structure with a batch in place of each loader; None for an exhausted one.
    """
    pairs: list[tuple[Any, Any]]
    if (
        isinstance(loaders, Mapping)
        and isinstance(batch, Mapping)
        and loaders.keys() == batch.keys()
    ):
        pairs = [(loaders[name], batch[name]) for name in loaders]
    elif _is_list(loaders) and _is_list(batch) and len(loaders) == len(batch):
        pairs = list(zip(loaders, batch, strict=True))
    else:
        return batch_size(batch, of_one_loader=True)
    sizes = [batch_size_by_loader(*pair) for pair in pairs if pair[1] is not None]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _candidates(value: Any, depth: int) -> _Candidates:  # noqa: PLR0911
    if depth > _MOST_DEPTH or value is None or _is_plain(value):
        return None
    if isinstance(value, PackedSequence):
        return (int(value.batch_sizes[0]),) if len(value.batch_sizes) else None
    shape = shape_of(value)
    if shape is not None:
        return shape[:1] or None
    if isinstance(value, Mapping):
        return _of_parts(islice(value.values(), _MOST_ITEMS), depth)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _of_parts(value[:_MOST_ITEMS], depth)
    if isinstance(value, list | tuple):
        return _of_list(value, depth)
    said = _said(value)
    if said is not None:
        return (said,)
    return _of_parts(_attributes(value), depth)


def _of_parts(items: Iterable[Any], depth: int) -> _Candidates:
    """Candidates from the parts of a batch. Lists of texts and numbers may be unrelated."""
    items = list(items)
    parts = [_candidates(item, depth + 1) for item in items]
    firm = [part for item, part in zip(items, parts, strict=True) if not _is_plain_list(item)]
    shapes = [shape for item in items if (shape := shape_of(item)) is not None]
    return _shared(parts) or _shared(firm) or _decided(parts, shapes) or _decided(firm, shapes)


def _of_list(items: Sequence[Any], depth: int) -> _Candidates:  # noqa: PLR0911
    """Candidates from a list, which holds either the parts of a batch or its samples."""
    some = [item for item in items[:_MOST_ITEMS] if item is not None]
    if not some:
        return None
    count = len(items)
    if all(map(_is_plain, some)):
        return (count,)  # texts, names of files, labels
    shapes = [shape for item in some if (shape := shape_of(item)) is not None]
    if len(shapes) == len(some):
        # A function that collates returns a tuple of parts; samples would be in a list.
        are_parts = depth == 0 and isinstance(items, tuple)
        are_parts = are_parts or len({getattr(item, "dtype", None) for item in some}) > 1
        return _of_shapes(shapes, count, are_parts=are_parts)
    if shapes:  # several inputs of different kinds
        return _of_parts(some, depth)
    if all(map(_is_sample, some)):
        return (count,)
    parts = [_candidates(item, depth + 1) for item in some]
    if all(part is None for part in parts):
        if any(map(_is_list, some)):
            return None
        # Objects without evidence are samples, such as images of a library's own type.
        return (count, _UNSURE) if any(isinstance(i, Mapping) for i in some) else (count,)
    # Parts of a batch, or samples that look like batches, such as the boxes in an image.
    agreed = _shared(parts) or ()
    if count > _MOST_INPUTS:
        return (count, *agreed)
    return (*agreed, count) if agreed else (count, _UNSURE)


def _of_shapes(  # noqa: PLR0911
    shapes: list[tuple[int, ...]], count: int, *, are_parts: bool
) -> _Candidates:
    """Candidates from a list of tensors: the parts of a batch, views of it, or its samples.

    Args:
        shapes: their shapes.
        count: length of the list.
        are_parts: they are more likely parts than samples.
    """
    whole = [shape for shape in shapes if shape]
    if not whole:
        return (count,)  # numbers, one per sample
    size = whole[0][0]
    is_common = all(shape[0] == size for shape in whole)
    dimensions = {len(shape) for shape in whole}
    if count == 1:
        return size, 1
    if len(dimensions) > 1 or len(whole) < len(shapes):
        return (size,) if is_common else _decided([shape[:1] for shape in whole], whole)
    if not is_common and are_parts and 2 < count <= _MOST_INPUTS and _SOME_DECIDE.get():
        usual = _most_usual(whole)
        if usual is not None:
            return usual
    if not is_common:  # sequences of different lengths, if they are not just two tensors
        return (count,) if count > 2 else (count, _UNSURE)
    is_image = dimensions == {3} and size in _CHANNELS
    is_image = is_image and all(min(shape[1:]) >= _LEAST_PIXELS for shape in whole)
    if is_image and (count > 2 or len(set(whole)) > 1):
        are_many = count > _MOST_INPUTS or (count > 2 and len(set(whole)) > 1)
        return (count,) if are_many else (size, count, _UNSURE)
    if count > _MOST_INPUTS and max(dimensions) < 4:
        return count, size
    return size, count


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bytes | Number)


def _is_plain_list(value: Any) -> bool:
    return _is_list(value) and all(map(_is_plain, value[:_MOST_ITEMS]))


def _is_sample(value: Any) -> bool:
    """Whether a mapping, tuple or list is a single sample, not a batch.

    A sample has numbers or texts next to tensors; or tensors that differ in their first dimension;
    or, as a mapping, only one-dimensional tensors, such as the tokens of a text; or only numbers.
    """
    is_mapping = isinstance(value, Mapping)
    if not is_mapping and not _is_list(value):
        return False
    items = list(islice(value.values() if is_mapping else value, _MOST_ITEMS))
    shapes = [shape for item in items if (shape := shape_of(item)) is not None]
    if () in shapes or (shapes and any(map(_is_plain, items))):
        return True
    if not shapes:
        numbers = [isinstance(item, Number) for item in items if _is_plain(item)]
        return len(numbers) == len(items) > 0 and (is_mapping or numbers[0] or any(numbers))
    if len(shapes) < len(items):
        return False
    if len({shape[0] for shape in shapes}) > 1:
        return True
    one_image = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] in _CHANNELS
    return is_mapping and (one_image or all(len(shape) == 1 for shape in shapes))


def _shared(parts: Sequence[_Candidates]) -> _Candidates:
    """The candidates shared by all parts."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    common = [size for size in known[0] if all(size in part for part in known)]
    certain = [size for size in common if size != _UNSURE]
    if len(set(certain)) == 1 and len(known) > 1:
        return (certain[0],)  # each part alone is ambiguous, but together they are not
    return tuple(common) if certain else ()


def _decided(parts: Sequence[_Candidates], shapes: Sequence[tuple[int, ...]]) -> _Candidates:
    """The candidate of the images, else of a majority of the parts, which contradict each other.

    Args:
        parts: the candidates of each part.
        shapes: shapes of the parts that are tensors.
    """
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if not _SOME_DECIDE.get():
        return ()
    votes = [part[0] for part in known if len(part) == 1]
    most = max(votes, key=votes.count, default=_UNSURE)
    has_most = votes and 2 * sum(most in part for part in known) > len(known)
    # A first dimension of 1 is that of a mask for all samples.
    of_images = {shape[0] for shape in shapes if len(shape) >= 4 and shape[0] > 1}
    if len(of_images) != 1 or (has_most and most in of_images):
        return (most,) if has_most else ()
    # Beside images there may be the boxes in all of them, or texts to choose from. If there are
    # several times as many images as something else, this may be a sample's number of images.
    (images,) = of_images
    others = {part[0] for part in known} - {1, images}
    return () if any(other and images % other == 0 for other in others) else (images,)


def _most_usual(shapes: Sequence[tuple[int, ...]]) -> _Candidates:
    """The first dimension that most tensors share; of several, the one that is in most shapes.

    None if all differ.
    """
    firsts = Counter(shape[0] for shape in shapes)
    ranks = {size: (n, sum(size in shape for shape in shapes)) for size, n in firsts.items()}
    best = max(ranks.values())
    found = tuple(size for size, rank in ranks.items() if rank == best)
    if best[0] == 1:
        return None
    return found if len(found) == 1 else ()


def _of_several_loaders(batch: Any) -> int | None:
    """The sum, if each part is a batch of at least two tensors that agree; else None.

    A list of mappings does not count: these may be samples, such as the objects in an image.
    """
    are_named = isinstance(batch, Mapping)
    parts = batch.values() if are_named else batch if _is_list(batch) else []
    sizes = []
    for part in islice(parts, _MOST_ITEMS):
        items = part if _is_list(part) else []
        if are_named and isinstance(part, Mapping):
            items = list(part.values())
        shapes = [shape for item in islice(items, _MOST_ITEMS) if (shape := shape_of(item))]
        if len(shapes) < 2 or len({shape[0] for shape in shapes}) > 1:
            return None
        sizes.append(shapes[0][0])
    return sum(sizes) or None


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or an array of any library; None for anything else."""
    if isinstance(value, Tensor):
        return (int(value.size(0)),) if value.is_nested else tuple(value.shape)
    if isinstance(value, Mapping | list | tuple) or not hasattr(value, "dtype"):
        return None
    shape = getattr(value, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None


def _said(value: Any) -> int | None:
    """The number an object states: a batch of graphs (PyG, DGL), or one with a `batch_size`."""
    for name in ("num_graphs", "batch_size"):
        said = getattr(value, name, None)
        if isinstance(said, tuple) and said:  # of several dimensions
            said = said[0]
        if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
            return said
    starts, graph_of = getattr(value, "ptr", None), getattr(value, "batch", None)
    if isinstance(starts, Tensor) and starts.ndim == 1:
        return len(starts) - 1
    # Not for a tensor on a GPU, which would require synchronisation.
    if isinstance(graph_of, Tensor) and graph_of.device.type == "cpu" and len(graph_of):
        return int(graph_of.max()) + 1
    is_graph = isinstance(getattr(value, "edge_index", None), Tensor)
    return 1 if is_graph else None


def _attributes(value: Any) -> list[Any]:
    """The parts of an object: all fields of a dataclass, else attributes that are arrays."""
    found = all_attributes(value)
    if is_dataclass(value):
        return list(found.values())
    return [item for item in found.values() if shape_of(item) is not None]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")
