"""Operators that move, select or repeat elements and compute nothing.

Moving and selecting distinct elements has norm one; repeating an element r times has norm sqrt(r).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.ops import facts
from obs_onnx.passes.ops.bounds import constant_or, data_only, pointwise, repeats
from obs_onnx.passes.ops.registry import Op

__all__ = ["TABLE"]


def _most_often(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    """sqrt of how often the most frequent value occurs."""
    if values.size == 0:
        return 0.0
    return math.sqrt(int(np.unique(values, return_counts=True)[1].max()))


def _gather(node: ir.Node) -> tuple[float | None, ...]:
    """Slices along one axis, each as often as its index occurs."""
    indices, shape = facts.array(node, 1), facts.dims(node.inputs[0])
    bound = None
    if indices is not None and shape is not None:
        length = shape[facts.int_attribute(node, "axis")]
        negative = bool((indices.astype(np.int64) < 0).any())
        if length is not None or not negative:
            bound = _most_often(indices.astype(np.int64) % length if length else indices)
    elif (
        indices is None and (index_dims := facts.dims(node.inputs[1])) is not None and None not in index_dims
    ):
        bound = math.sqrt(max(1, facts.size(node.inputs[1])))
    return constant_or(node, 0, bound), constant_or(node, 1, None)


def _lookup_table(node: ir.Node) -> str | None:
    table = facts.constant(node, 0)
    held = table is not None and facts.is_float(table) and len(table.shape) > 1
    return "lookup tables are not pruned" if held else None


def _gather_anywhere(node: ir.Node) -> tuple[float | None, ...]:
    """At worst all indices name the same element."""
    index_dims = facts.dims(node.inputs[1])
    known = index_dims is not None and None not in index_dims
    bound = math.sqrt(max(1, facts.size(node.inputs[1]))) if known else None
    return constant_or(node, 0, bound), constant_or(node, 1, None)


def _pad(node: ir.Node) -> float | None:
    """Zeros add nothing; reflected, repeated and wrapped elements occur several times."""
    mode = facts.text_attribute(node, "mode", "constant")
    if mode == "constant":
        return 1.0
    shape, pads = facts.dims(node.inputs[0]), facts.ints_attribute(node, "pads") or facts.ints_input(node, 1)
    if shape is None or not pads or facts.input_of(node, 3) is not None:
        return None
    rank, bound = len(shape), 1.0
    for axis, length in enumerate(shape):
        before, after = max(0, pads[axis]), max(0, pads[rank + axis])
        if before + after == 0:
            continue
        if length is None or mode not in ("reflect", "edge", "wrap"):
            return None
        padded = np.pad(np.arange(length), (before, after), mode=mode)  # type: ignore[call-overload]
        bound *= _most_often(padded)
    return bound


def _resize(node: ir.Node) -> float | None:
    """Nearest copies; linear samples a hat of width one ``scale`` times per element, clamped at the ends."""
    before, after = facts.dims(node.inputs[0]), facts.dims(node.outputs[0])
    mode = facts.text_attribute(node, "mode", "nearest")
    if before is None or after is None or facts.int_attribute(node, "antialias"):
        return None
    bound = 1.0
    for length, new in zip(before, after, strict=True):
        if length == new:
            continue
        if not length or not new:
            return None
        if mode == "nearest":
            bound *= math.ceil(new / length) + (1 if new % length else 0)
        elif mode == "linear":
            bound *= 1.5 * max(1.0, new / length) + 1.0
        else:
            return None
    return math.sqrt(bound)


_ONE = Op(lipschitz=data_only(1.0))
_ZERO = Op(lipschitz=lambda node: (0.0,) * len(node.inputs))
_NONE = Op(lipschitz=pointwise(None))
_ALL_ONE = Op(lipschitz=lambda node: tuple(constant_or(node, i, 1.0) for i in range(len(node.inputs))))
_REPEAT = Op(lipschitz=data_only(repeats))

TABLE = {
    "Reshape": _ONE,
    "Flatten": _ONE,
    "Transpose": _ONE,
    "Squeeze": _ONE,
    "Unsqueeze": _ONE,
    "Slice": _ONE,
    "Split": _ONE,
    "SpaceToDepth": _ONE,
    "DepthToSpace": _ONE,
    "Trilu": _ONE,
    "Compress": _ONE,
    "ReverseSequence": _ONE,
    "TopK": _ONE,
    "SplitToSequence": _ONE,
    "SequenceAt": _ONE,
    "Concat": _ALL_ONE,
    "SequenceConstruct": _ALL_ONE,
    "ConcatFromSequence": _ONE,
    "Pad": Op(lipschitz=data_only(_pad)),
    "Gather": Op(linear=_lookup_table, lipschitz=_gather),
    "GatherElements": Op(lipschitz=_gather_anywhere),
    "GatherND": Op(lipschitz=_gather_anywhere),
    "Expand": _REPEAT,
    "Tile": _REPEAT,
    "Resize": Op(lipschitz=data_only(_resize)),
    "Upsample": Op(lipschitz=data_only(_resize)),
    # the outputs do not depend on the values of the inputs
    "Shape": _ZERO,
    "Size": _ZERO,
    "Constant": _ZERO,
    "ConstantOfShape": _ZERO,
    "EyeLike": _ZERO,
    # no bound
    "Scatter": _NONE,
    "ScatterElements": _NONE,
    "ScatterND": _NONE,
    "NonZero": _NONE,
    "OneHot": _NONE,
    "Range": _NONE,
    "Unique": _NONE,
    "Col2Im": Op(lipschitz=data_only(None)),
    "GridSample": _NONE,
    "NonMaxSuppression": _NONE,
}
