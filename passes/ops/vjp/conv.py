"""Gradients of convolutions.

``Conv`` and ``ConvTranspose`` are transposes of each other, so both need the same two pieces. With a small
and a large side, stride s, dilation d and padding p, ``Conv`` reads the large side and writes the small one,
``ConvTranspose`` the other way round:

    large position = small position * s + kernel offset * d - p

* The gradient of the large side is a ConvTranspose, or with stride 1 a Conv with the kernel flipped: a fifth
  faster, unless the convolution shrinks the image (5x5 kernel without padding on 12x12: 5 ms against 26).
* The gradient of the weight (small channels, large channels / groups, *kernel) is for each kernel offset the
  product of the small side with the large side shifted by this offset. No patches are unfolded: one shifted
  copy of the large side exists at a time.

Measured on onnxruntime's CPU, float32, 3x3 kernels, one thread, in milliseconds (batch, channels, height):

    ======================================  =========  ========  =========  =========
    gradient of the weight                  64,16,32   64,64,8   16,256,14  16,512,4
    ======================================  =========  ========  =========  =========
    products by example, then summed        8.1        5.0       55.8       66.6
    the same, shifts as offsets in memory   6.1        5.2       61.7       72.5
    one product, examples folded into rows  8.2        5.1       39.4       15.5
    ======================================  =========  ========  =========  =========

With two threads the first is twice as fast as the third at 16 to 64 channels: the third is for wide layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.traits.vjp import Vjp

__all__ = ["RULES", "as_product"]

_WIDE = 128 * 128  # entries of one kernel offset from which on examples are folded into rows
_GROWTH = 1.4  # in positions, from which on ConvTranspose is faster than Conv with the kernel flipped
_COLUMNS = 32  # of a product to which views of few channels are brought together
_FEW_ZEROS = 1.07  # by what factor rows may get longer: 32 positions and a kernel of 3 pay, 16 do not


@dataclass(frozen=True)
class _Geometry:
    """Attributes with all defaults and automatic padding resolved.

    ``tail`` is how many positions of the large side lie behind the last one that a kernel in its last place
    reaches (what a stride leaves over, or ``output_padding``); None when not known statically.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    tail: tuple[int | None, ...]
    groups: int

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """Length of the dilated kernel less one."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True))


def _geometry(v: Vjp, large: ir.Value, small: ir.Value) -> _Geometry:
    node = v.node
    kernel = _static(v, v.x(1))[2:]
    rank = len(kernel)
    strides = node_facts.ints_attribute(node, "strides", (1,) * rank)
    dilations = node_facts.ints_attribute(node, "dilations", (1,) * rank)
    pads = node_facts.ints_attribute(node, "pads", (0,) * (2 * rank))
    auto = node_facts.text_attribute(node, "auto_pad", "NOTSET")
    begins, ends = list(pads[:rank]), list(pads[rank:])
    spans = [
        None if n is None or m is None else n - (m - 1) * s - (k - 1) * d - 1
        for n, m, s, k, d in zip(
            v.dims(large)[2:], v.dims(small)[2:], strides, kernel, dilations, strict=True
        )
    ]
    if auto in ("SAME_UPPER", "SAME_LOWER") or node_facts.ints_attribute(node, "output_shape"):
        extra = node_facts.ints_attribute(node, "output_padding", (0,) * rank)
        for i, span in enumerate(spans):
            total = extra[i] - span if span is not None else (kernel[i] - 1) * dilations[i]
            if span is None and strides[i] != 1:
                v.refuse("its padding depends on a shape that is only known at run time")
            shorter = max(total, 0) // 2
            longer = max(total, 0) - shorter
            begins[i], ends[i] = (shorter, longer) if auto == "SAME_UPPER" else (longer, shorter)
    elif auto == "VALID":
        begins, ends = [0] * rank, [0] * rank
    unknown = 0 if node.op_type == "Conv" else None  # a stride of one leaves nothing over
    tail = [
        span + b + e if span is not None else unknown if s == 1 else None
        for span, b, e, s in zip(spans, begins, ends, strides, strict=True)
    ]
    groups = node_facts.int_attribute(node, "group", 1)
    return _Geometry(kernel, strides, dilations, tuple(begins), tuple(ends), tuple(tail), groups)


def _static(v: Vjp, value: ir.Value) -> tuple[int, ...]:
    dims = v.dims(value)
    if None in dims:
        v.refuse("the shape of its weight is not static")
    return tuple(dim for dim in dims if dim is not None)


def _conv(v: Vjp) -> None:
    x, w = v.two()
    g = _geometry(v, large=x, small=v.y())
    if v.wants(0):
        v.give(0, _gradient_of_large(v, g, v.gy(), w, x))
    if v.wants(1):
        v.give(1, _gradient_of_weight(v, g, large=x, small=v.gy()))
    _bias(v)


def as_product(v: Vjp) -> ir.Value | None:
    """The output of a ``Conv`` as one product over all examples of the weight with patches of the input.

    onnxruntime multiplies example by example: with a handful of positions it reads the whole weight for each
    of them. None where that is not so: the patches are as many times the size of the input as the kernel has
    offsets, which only pays for outputs of no more positions than that.
    """
    x, w = v.two()
    l_dims, s_dims, w_dims = (v.dims(value) for value in (x, v.y(), w))
    if None in (*l_dims[1:], *s_dims[2:], *w_dims) or node_facts.int_attribute(v.node, "group", 1) > 1:
        return None
    (outputs, inputs), large = _static(v, w)[:2], [n or 0 for n in l_dims[2:]]
    small = [n or 0 for n in s_dims[2:]]
    offsets = math.prod(_static(v, w)[2:])
    if offsets == 1 or math.prod(large) > outputs or not 0 < math.prod(small) <= offsets:
        return None
    reads = v.constant(_reads(_geometry(v, large=x, small=v.y()), large, small), x)
    x_CNL = v.transpose(v.reshape(x, [0, inputs, math.prod(large)]), [1, 0, 2])
    patches_CKNP = v.op("MatMul", v.unsqueeze(x_CNL, [1]), reads)
    bias = v.reshape(v.x(2), [outputs, 1]) if v.has(2) else None
    patches_IR = v.reshape(patches_CKNP, [inputs * offsets, -1])
    y_OR = v.op("Gemm", v.reshape(w, [outputs, -1]), patches_IR, bias)
    spread = v.reshape(y_OR, [outputs, -1, *small])
    return v.shaped(v.transpose(spread, [1, 0, *range(2, 2 + len(small))]), v.y())


def _reads(g: _Geometry, large: Sequence[int], small: Sequence[int]) -> NDArray[np.float32]:
    """(kernel offset, position of the large side, position of the small side): 1 where that reads this."""
    reads = np.ones((1, 1, 1), np.float32)
    for k, s, d, begin, n, m in zip(g.kernel, g.strides, g.dilations, g.begins, large, small, strict=True):
        read = np.arange(m) * s + np.arange(k)[:, None] * d - begin
        reads = np.kron(reads, read[:, None] == np.arange(n)[:, None])
    return reads


def _conv_transpose(v: Vjp) -> None:
    x, w = v.two()
    g = _geometry(v, large=v.y(), small=x)
    if v.wants(0):
        v.give(0, _gradient_of_small(v, g, v.gy(), w))
    if v.wants(1):
        v.give(1, _gradient_of_weight(v, g, large=v.gy(), small=x))
    _bias(v)


def _bias(v: Vjp) -> None:
    if v.wants(2):
        v.give(2, v.sum(v.gy(), [0, *range(2, v.rank(v.gy()))]))


def _gradient_of_small(v: Vjp, g: _Geometry, large: ir.Value, w: ir.Value) -> ir.Value:
    """Convolution of the large side; positions that no kernel reached must not make another output."""
    ends = [e if t is None or t < s else e - t for e, t, s in zip(g.ends, g.tail, g.strides, strict=True)]
    begins = list(g.begins)
    if min(ends) < 0:
        large = v.pad(large, [0, 0, *begins], [0, 0, *ends])
        begins = ends = [0] * g.rank
    return v.op(
        "Conv",
        large,
        w,
        strides=list(g.strides),
        dilations=list(g.dilations),
        pads=[*begins, *ends],
        group=g.groups,
    )


def _gradient_of_large(v: Vjp, g: _Geometry, small: ir.Value, w: ir.Value, large: ir.Value) -> ir.Value:
    """Gradient with respect to ``large`` from ``small``, the gradient of the small side."""
    if set(g.strides) == {1} and not _grows(v, large, small):
        return _flipped(v, g, small, w)
    space = list(range(2, 2 + g.rank))
    attributes = {"strides": list(g.strides), "dilations": list(g.dilations), "group": g.groups}
    tail = [t for t in g.tail if t is not None]
    if len(tail) == g.rank and all(t < s for t, s in zip(tail, g.strides, strict=True)):
        pads = [*g.begins, *g.ends]
        return v.op("ConvTranspose", small, w, pads=pads, output_padding=tail, **attributes)
    spread = v.op("ConvTranspose", small, w, **attributes)
    spread = v.pad(spread, [0] * (2 + g.rank), [0, 0, *(s - 1 for s in g.strides)])
    ends = v.op("Add", _lengths(v, large), v.ints(g.begins))
    return v.op("Slice", spread, v.ints(g.begins), ends, v.ints(space))


def _grows(v: Vjp, large: ir.Value, small: ir.Value) -> bool:
    """Whether the large side has so many more positions that a Conv would mostly multiply padding."""
    l_dims, s_dims = v.dims(large)[2:], v.dims(small)[2:]
    if None in (*l_dims, *s_dims):
        return False
    return math.prod(n or 0 for n in l_dims) > _GROWTH * math.prod(n or 0 for n in s_dims)


def _flipped(v: Vjp, g: _Geometry, small: ir.Value, w: ir.Value) -> ir.Value:
    """With stride 1: convolution with the flipped kernel, its channel axes exchanged in each group."""
    shape = _static(v, w)
    flip = [axis for axis, k in enumerate(shape) if axis > 1 and k > 1]
    if flip:
        n = len(flip)
        w = v.slice(w, [-1] * n, [None] * n, flip, [-1] * n)
    if shape[0] == g.groups and shape[1] == 1:
        swapped = w
    else:
        split = v.reshape(w, [g.groups, shape[0] // g.groups, *shape[1:]]) if g.groups > 1 else w
        lead = [0, 2, 1] if g.groups > 1 else [1, 0]
        swapped = v.transpose(split, [*lead, *range(len(lead), len(lead) + g.rank)])
        if g.groups > 1:
            swapped = v.reshape(swapped, [g.groups * shape[1], shape[0] // g.groups, *shape[2:]])
    begins = [r - b for r, b in zip(g.reach, g.begins, strict=True)]
    ends = [r - e for r, e in zip(g.reach, g.ends, strict=True)]
    crop = [min(n, 0) for n in (*begins, *ends)]
    full = v.op(
        "Conv",
        small,
        swapped,
        dilations=list(g.dilations),
        pads=[max(n, 0) for n in (*begins, *ends)],
        group=g.groups,
    )
    return v.pad(full, [0, 0, *crop[: g.rank]], [0, 0, *crop[g.rank :]])


def _gradient_of_weight(v: Vjp, g: _Geometry, large: ir.Value, small: ir.Value) -> ir.Value:
    """For each kernel offset the products of the two sides, summed over examples and positions."""
    shape = _static(v, v.x(1))
    if g.groups == 1 and shape[0] * shape[1] >= _WIDE:
        parts = _folded(v, g, large, small, shape)
    else:
        small, views = _rows(v, g, large, small) or (small, _views(v, g, _padded(v, g, large), small))
        if shape[0] == g.groups and shape[1] == 1:
            over = [0, *range(2, v.rank(small))]
            parts = [v.sum(v.mul(small, view), over) for view in views]
        else:
            parts = _by_example(v, g, views, small, shape)
    if len(parts) == 1:
        return v.reshape(parts[0], shape)
    flat = [v.reshape(part, [shape[0], shape[1], -1]) for part in parts]
    return v.reshape(v.op("Concat", *flat, axis=2), shape)


def _padded(v: Vjp, g: _Geometry, large: ir.Value) -> ir.Value:
    return v.pad(large, [0, 0, *g.begins], [0, 0, *g.ends])


def _by_example(
    v: Vjp, g: _Geometry, views: Sequence[ir.Value], small: ir.Value, shape: Sequence[int]
) -> list[ir.Value]:
    """(N, G, O, P) times (N, G, P, I), summed over N; views of few channels are multiplied together."""
    split = [g.groups] if g.groups > 1 else []
    s_NOP = v.reshape(small, [0, *split, shape[0] // g.groups, -1])
    perm = [*range(1 + len(split)), 2 + len(split), 1 + len(split)]
    l_NIP = [v.reshape(view, [0, *split, shape[1], -1]) for view in views]
    together = max(1, _COLUMNS // shape[1]) if 2 * shape[1] <= _COLUMNS else 1
    parts = []
    for first in range(0, len(views), together):
        some = l_NIP[first : first + together]
        l_NKP = v.op("Concat", *some, axis=1 + len(split)) if len(some) > 1 else some[0]
        part = v.sum(v.op("MatMul", s_NOP, v.transpose(l_NKP, perm)), [0])
        parts.append(v.transpose(v.reshape(part, [shape[0], len(some), shape[1]]), [0, 2, 1]))
    return parts


def _folded(v: Vjp, g: _Geometry, large: ir.Value, small: ir.Value, shape: Sequence[int]) -> list[ir.Value]:
    """(O, N P) times (N P, I)."""
    perm = [1, 0, *range(2, 2 + g.rank)]
    s_OR = v.reshape(v.transpose(small, perm), [shape[0], -1])
    views = _views(v, g, v.transpose(_padded(v, g, large), perm), small)
    return [v.op("Gemm", s_OR, v.reshape(view, [shape[1], -1]), transB=1) for view in views]


def _rows(v: Vjp, g: _Geometry, large: ir.Value, small: ir.Value) -> tuple[ir.Value, list[ir.Value]] | None:
    """Small side and views of the large one with positions in one axis, each view one piece of memory.

    Rows of the small side get zeros at their ends, until they are as long as those of the padded large side:
    then an offset of the kernel is an offset in memory. Only where the zeros are few, and the stride is one.
    """
    l_dims, s_dims = v.dims(large), v.dims(small)
    if set(g.strides) != {1} or math.prod(g.kernel) == 1 or None in (*l_dims[2:], *s_dims[2:]):
        return None
    rows = [n for n in s_dims[2:] if n is not None]
    pitch = [n + r for n, r in zip(rows, g.reach, strict=True)]
    if math.prod(pitch[1:]) > _FEW_ZEROS * math.prod(rows[1:]):
        return None
    spare = int(any(g.reach[1:]))  # one more row, into which the last offsets reach
    ends = [g.ends[0] + spare, *g.ends[1:]]
    flat = v.reshape(v.pad(large, [0, 0, *g.begins], [0, 0, *ends]), [0, l_dims[1] or 0, -1])
    zeros = [0, 0, 0, *(p - n for p, n in zip(pitch[1:], rows[1:], strict=True))]
    aligned = v.reshape(v.pad(small, [0] * len(zeros), zeros), [0, s_dims[1] or 0, -1])
    views = []
    for offset in product(*(range(k) for k in g.kernel)):
        start = 0
        for k, d, p in zip(offset, g.dilations, pitch, strict=True):
            start = start * p + k * d
        views.append(v.slice(flat, [start], [start + rows[0] * math.prod(pitch[1:])], [2]))
    return aligned, views


def _views(v: Vjp, g: _Geometry, padded: ir.Value, small: ir.Value) -> list[ir.Value]:
    """For each kernel offset, the positions of the large side that it touches: the size of the small side."""
    if math.prod(g.kernel) == 1 and set(g.strides) == {1} and not any(g.tail):
        return [padded]
    space = list(range(2, 2 + g.rank))
    dims = v.dims(small)[2:]
    views = []
    for offset in product(*(range(k) for k in g.kernel)):
        starts = [k * d for k, d in zip(offset, g.dilations, strict=True)]
        if None not in dims:
            ends = [b + (n - 1) * s + 1 for b, n, s in zip(starts, dims, g.strides, strict=True) if n]
            views.append(v.slice(padded, starts, ends, space, g.strides))
            continue
        spans = v.op("Mul", _lengths(v, small), v.ints(g.strides))
        shift = v.ints([b - s + 1 for b, s in zip(starts, g.strides, strict=True)])
        views.append(
            v.op("Slice", padded, v.ints(starts), v.op("Add", spans, shift), v.ints(space), v.ints(g.strides))
        )
    return views


def _lengths(v: Vjp, value: ir.Value) -> ir.Value:
    """The sizes of the spatial axes as a vector of int64."""
    return v.slice(v.shape_of(value), [2], [None], [0])


RULES: dict[Callable[[Vjp], None], str] = {
    _conv: "Conv",
    _conv_transpose: "ConvTranspose",
}
