"""Feeds: what a model wants (``TensorSpec``) and whether an array is that, with messages that help.

A feed is a dict from input name to array, complete for one run of the model. Casts that cannot surprise
are made (float64 to float32, int32 to int64 ...); everything else is a :class:`DataError` that names
the array.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from obs_onnx.passes.errors import DataError, named

__all__ = ["Array", "Feed", "Repeated", "TensorSpec", "conform", "conform_labels", "is_float"]

Array = NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and type of an input or output.

    Attributes:
        name: in the model.
        shape: per axis its size, the name of a free size, or None; None as a whole if the rank is unknown.
        dtype: numpy's (``ml_dtypes.bfloat16`` for bfloat16, ``object`` for strings).
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        """For example ``input: float32 (N, 3, 32, 32)``."""
        return f"{self.name}: {self.dtype} {format_shape(self.shape)}"


def format_shape(shape: Sequence[int | str | None] | None) -> str:
    """``(N, 3, ?, 32)``: one entry per axis."""
    if shape is None:
        return "(of any rank)"
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for float16, float32, float64 and bfloat16."""
    return bool(np.issubdtype(dtype, np.floating)) or dtype == bfloat16


def as_array(value: Any) -> Array:
    """An array of NumPy as it is; tensors of PyTorch may lie on a device, carry gradients or be bfloat16."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(getattr(value, "dtype", "")).endswith("bfloat16") else value
    return np.asarray(value)


def check_names(names: Mapping[str, Any], specs: Sequence[TensorSpec], where: str) -> None:
    """Raise DataError unless ``names`` are exactly the inputs of ``specs``."""
    wanted = ", ".join(spec.name for spec in specs)
    unknown = [name for name in names if name not in {spec.name for spec in specs}]
    for spec in specs:
        if spec.name not in names:
            have = f"it has {', '.join(map(repr, names))}" if names else "it has no arrays"
            raise DataError(
                f"{where}: no array for input {spec.name!r} ({have}); "
                f"name the arrays like the inputs: {wanted}"
            )
    if unknown:
        raise DataError(
            f"{where}: array {unknown[0]!r} is no input of the model (inputs: {wanted}); leave it out, "
            f"or give its name with {named('labels')} if it holds the labels"
        )


def conform(array: Any, spec: TensorSpec, where: str, *, first_axis: bool = True) -> Array:
    """``array`` as a contiguous array of ``spec``'s type, or a DataError that says what to do."""
    array = np.asarray(array)
    check_shape(array.shape, spec, where, first_axis=first_axis)
    check_type(array.dtype, spec, where)
    result: Array = np.asarray(_cast(array, spec, where), order="C")
    return result


def check_shape(
    shape: tuple[int, ...], spec: TensorSpec, where: str, *, first_axis: bool = True, samples: bool = False
) -> None:
    """Raise DataError unless ``shape`` fits; ``samples`` only changes the message (first axis is free)."""
    if spec.shape is None:
        return
    wanted = ("samples", *spec.shape[1:]) if samples and spec.shape else spec.shape
    if len(shape) != len(spec.shape):
        do = f"reshape it to {len(spec.shape)} axes"
        if not spec.shape:
            do = "give one number, or one number for each feed: shape (feeds,)"
        raise DataError(
            f"{where}: array {spec.name!r} has shape {format_shape(shape)}, the model wants "
            f"{format_shape(wanted)}: {do}"
        )
    for axis, (size, want) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(want, int) and size != want and (axis > 0 or first_axis):
            raise DataError(
                f"{where}: array {spec.name!r} has shape {format_shape(shape)}, the model wants "
                f"{format_shape(wanted)}: axis {axis} must have size {want}"
            )


def check_type(dtype: np.dtype[Any], spec: TensorSpec, where: str) -> None:
    """Raise DataError unless ``dtype`` can be cast to the input's type without surprise."""
    want = spec.dtype
    if want == np.dtype(object):
        if dtype.kind in "UST" or dtype == np.dtype(object):
            return
        hint = "give an array of strings"
    elif dtype == want or (dtype.kind == "V" and dtype.itemsize == 2 and want == bfloat16):
        return
    elif dtype == np.dtype(object) or (dtype.kind not in "biuf" and dtype != bfloat16):
        hint = f"store plain numbers of type {want}"
    elif is_float(want):
        if is_float(dtype):
            return
        hint = f"scale it as the model was trained (often (x / 255 - mean) / std) and store {want}"
    elif is_float(dtype):
        hint = f"the model wants whole numbers: store {want}"
    elif want == np.dtype(bool) or dtype.kind != "b":
        return
    else:
        hint = f"store it as {want}"
    raise DataError(f"{where}: array {spec.name!r} is {dtype}, the model wants {want}: {hint}")


def _cast(array: Array, spec: TensorSpec, where: str) -> Array:
    """``array`` as ``spec.dtype``; the values must survive it, and be finite or a mask of -inf."""
    want = spec.dtype
    if array.dtype.kind == "V" and want == bfloat16:
        return array.view(bfloat16)
    if want == np.dtype(object):
        return array.astype(object)
    if is_float(want):
        with np.errstate(over="ignore", invalid="ignore"):
            result = array.astype(want, copy=False)
        if not np.isfinite(result).all() and not _is_mask(array):
            finite_before = np.isfinite(array).all()
            what = f"values too large for {want}" if finite_before else "NaN or infinite values"
            first = np.argwhere(~np.isfinite(result))[0].tolist()
            raise DataError(
                f"{where}: array {spec.name!r} has {what} (first at index {first} of this "
                "batch): remove or repair them"
            )
        return result
    result = array.astype(want, copy=False)
    if array.dtype != want and not np.array_equal(result.astype(array.dtype), array):
        low, high = array.min(), array.max()
        raise DataError(f"{where}: array {spec.name!r} has values from {low} to {high}, too wide for {want}")
    return result


def _is_one_hot(labels: Array) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _is_mask(array: Array) -> bool:
    """Whether numbers are added to scores to rule some out: none above 0, and -inf for what is ruled out."""
    return bool(np.isneginf(array).any() and (array <= 0).all())


def conform_labels(labels: Any, count: int | None, where: str, key: str = "labels") -> NDArray[np.int64]:
    """Class labels as int64: (count,), or (count, ...) with one for each position (pixel, token).

    Negative ones mean that nobody labelled a position.

    Raises:
        DataError: no whole numbers, not as many as there are samples, or a sample without a label.
    """
    labels = np.asarray(labels)
    shape = format_shape(labels.shape)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.size and _is_one_hot(labels):
        raise DataError(
            f"{where}: {key!r} has shape {shape}, labels are class numbers of shape (samples,): "
            "for one-hot rows store their argmax"
        )
    if labels.ndim == 0:
        raise DataError(f"{where}: {key!r} has shape (), labels have shape (samples,) or (samples, ...)")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: {key!r} is {labels.dtype}, labels are whole numbers: store them as int64")
    if count is not None and len(labels) != count:
        raise DataError(
            f"{where}: {key!r} has {len(labels)} entries for {count} samples: one label per sample"
        )
    if labels.ndim == 1 and len(labels) and labels.min() < 0:
        index = int(np.argmin(labels))
        raise DataError(
            f"{where}: {key!r} has the negative value {labels[index]} at {index}: classes count from 0"
        )
    result: NDArray[np.int64] = labels.astype(np.int64)
    return result


class Repeated(Iterable[object]):
    """What an iterator gives, as often as it is asked for.

    Args:
        items: the iterator; it is read as far as somebody asks.
    """

    def __init__(self, items: Iterator[object]) -> None:
        self._items, self._held, self.where = items, list[object](), type(items).__name__

    def __iter__(self) -> Iterator[object]:
        for number in itertools.count():
            if number == len(self._held):
                try:
                    self._held.append(next(self._items))
                except StopIteration:
                    return
            yield self._held[number]
