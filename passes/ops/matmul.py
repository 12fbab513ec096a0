"""Matrix products: ``Gemm``, ``MatMul`` and their relatives.

With the weight on the right, ``y = x W`` and W is stored as (..., I, O); on the left, ``y = W x`` and W is
stored as (..., O, I). Gemm may transpose either operand and scales the product by alpha, its bias by beta.
The discrete Fourier transform is a product with a matrix, too, of which only the derivative is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops.quantized.counterpart import counterpart, ranged
from obs_onnx.passes.ops.quantized.weights import Held, held, stored
from obs_onnx.passes.ops.vjp.matmul import RULES
from obs_onnx.passes.traits.atoms import Labels
from obs_onnx.passes.traits.linear import Linear, MatmulGeometry, WeightLayout
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Freeze, Operand, Relation

__all__ = ["TABLE"]


def _weight_side(node: ir.Node) -> tuple[int, Held] | None:
    """Position and tensor of the constant operand; None when none or both are constant."""
    left, right = held(node, 0), held(node, 1)
    if (left is None) == (right is None):
        return None
    if right is not None:
        return 1, right
    assert left is not None
    return 0, left


def _layout(shape: tuple[int, ...], inputs_first: bool, groups: int = 1, scale: float = 1.0) -> WeightLayout:
    split = (groups, *shape[-2:])
    outputs, inputs = (shape[-1], shape[-2]) if inputs_first else (shape[-2], shape[-1])
    perm = (0, 2, 1) if inputs_first else (0, 1, 2)
    return WeightLayout(shape, split, perm, (groups, outputs, inputs), scale)


def _linear_gemm(node: ir.Node) -> Linear | str | None:
    found = _weight_side(node)
    if found is None:
        return None
    side, weight = found
    alpha, beta = (
        node_facts.float_attribute(node, "alpha", 1.0),
        node_facts.float_attribute(node, "beta", 1.0),
    )
    shape = weight.shape
    if not weight.is_float:
        return f"weights of type {weight.dtype.name} are not pruned"
    if alpha == 0.0 or math.prod(shape) == 0:
        return "its product is always zero"
    trans = (node_facts.int_attribute(node, "transA"), node_facts.int_attribute(node, "transB"))
    if side == 1:
        layout = _layout(shape, inputs_first=not trans[1], scale=alpha)
        geometry = MatmulGeometry(input_axis=-2 if trans[0] else -1, output_axis=-1)
        per_output = {(layout.goi[1],), (1, layout.goi[1])}
    else:
        layout = _layout(shape, inputs_first=bool(trans[0]), scale=alpha)
        geometry = MatmulGeometry(input_axis=-1 if trans[1] else -2, output_axis=-2)
        per_output = {(layout.goi[1], 1)}
    if node_facts.input_of(node, 2) is None or beta == 0.0:
        return stored(node, Linear(side, 1 - side, layout, geometry))
    bias = held(node, 2)
    if bias is None or bias.shape not in per_output:
        return "its C input is not one constant per output"
    return stored(node, Linear(side, 1 - side, layout, geometry, bias_input=2, bias_scale=beta))


def _linear_matmul(node: ir.Node) -> Linear | str | None:
    found = _weight_side(node)
    if found is None:
        return None
    side, weight = found
    shape = weight.shape
    if not weight.is_float:
        return f"weights of type {weight.dtype.name} are not pruned"
    if len(shape) < 2 or math.prod(shape) == 0:
        return "its weight is no matrix"
    x_dims = node_facts.dims(node.inputs[1 - side])
    groups = math.prod(shape[:-2])
    if groups != 1 and (x_dims is None or x_dims[:-2] != shape[:-2]):
        return f"its weight of shape {shape} is broadcast against its input"
    layout = _layout(shape, inputs_first=side == 1, groups=groups)
    if side == 1:
        return stored(node, Linear(1, 0, layout, MatmulGeometry(-1, -1, groups), bias_behind=True))
    if x_dims is None:
        return "the rank of its input is unknown"
    axis = -1 if len(x_dims) == 1 else -2
    return stored(node, Linear(0, 1, layout, MatmulGeometry(axis, axis, groups), bias_behind=True))


def _macs_gemm(node: ir.Node, b: int = 1) -> int:
    """Elements of A times columns of B."""
    b_dims = node_facts.dims(node.inputs[b]) or (1, 1)
    return node_facts.size(node.inputs[0]) * (
        b_dims[0 if node_facts.int_attribute(node, "transB") else -1] or 1
    )


def _macs_matmul(node: ir.Node, b: int = 1) -> int:
    """Rows of A times what is summed over times columns of B, for each of the broadcast leading positions."""
    a_dims = node_facts.dims(node.inputs[0]) or (1, 1)
    b_dims = node_facts.dims(node.inputs[b]) or (1, 1)
    a_dims = (1, *a_dims) if len(a_dims) == 1 else a_dims
    b_dims = (*b_dims, 1) if len(b_dims) == 1 else b_dims
    leading = zip_longest(reversed(a_dims[:-2]), reversed(b_dims[:-2]), fillvalue=1)
    batch = math.prod(max(a or 1, b or 1) for a, b in leading)
    return batch * (a_dims[-2] or 1) * (a_dims[-1] or b_dims[-2] or 1) * (b_dims[-1] or 1)


def _macs_fused(node: ir.Node) -> int:
    """Elements of the result times what is summed over, whichever operand is transposed."""
    a_dims = node_facts.dims(node.inputs[0]) or (1, 1)
    return node_facts.size(node.outputs[0]) * (
        a_dims[-2 if node_facts.int_attribute(node, "transA") else -1] or 1
    )


def _macs_einsum(node: ir.Node) -> int:
    """Product of all letters."""
    left = node_facts.text_attribute(node, "equation", "").replace(" ", "").partition("->")[0]
    sizes: dict[str, int] = {}
    for term, value in zip(left.split(","), node.inputs, strict=False):
        dims = node_facts.dims(value)
        if "." in term or dims is None or len(dims) != len(term):
            return 0
        for letter, n in zip(term, dims, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), n or 1)
    return math.prod(sizes.values())


def _left_alone(reason: str, *weight_inputs: int, macs: Callable[[ir.Node], int] | None = None) -> Op:
    def linear(node: ir.Node) -> str | None:
        return reason if any(node_facts.constant(node, i) is not None for i in weight_inputs) else None

    return Op(linear=linear, macs=macs)


_QUANTIZED = "quantized weights are not pruned"


def _contract(r: Relation, slots: tuple[int, int], axes: tuple[int, int]) -> None:
    """The two axes are one and are summed over; the constant side is the one to silence."""
    (a, b), (i, j) = slots, axes
    r.tie(r.axes(a)[i], r.axes(b)[j])
    if r.graph.concrete.holds(r.value(a)):
        r.mix(a, i)
    else:
        r.mix(b, j)


def _swapped(axes: list[Labels], transposed: bool) -> list[Labels]:
    return [*axes[:-2], axes[-1], axes[-2]] if transposed and len(axes) > 1 else axes


def _relate_matmul(r: Relation) -> None:
    """``(..., m, k) @ (..., k, n)``: k is contracted, leading axes broadcast."""
    flip_a, flip_b = bool(r.integer("transA")), bool(r.integer("transB"))
    if r.integer("transBatchA") or r.integer("transBatchB"):
        raise Freeze("its batch axes are transposed")
    a, b = _swapped(r.axes(0), flip_a), _swapped(r.axes(1), flip_b)
    _contract(r, (0, 1), (-2 if flip_a else -1, -1 if flip_b or len(b) == 1 else -2))
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else []
    r.give([*r.broadcast([a[:-2], b[:-2]]), *rows, *columns])


def _relate_gemm(r: Relation) -> None:
    """``A @ B + C``; C is broadcast to the result."""
    _relate_matmul(r)
    if r.has(2):
        y = r.graph.labels[r.node.outputs[0]]
        r.give(r.broadcast([y, r.axes(2)]))


def _relate_einsum(r: Relation) -> None:
    """One letter, one axis; a letter that is missing on the right is summed over."""
    equation = r.node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
    if any(len(set(term)) != len(term) for term in terms if "." not in term):
        raise Freeze("it takes a diagonal")
    if "." in equation:
        ranks = [len(r.axes(slot)) - len(term.replace("...", "")) for slot, term in enumerate(terms)]
        if len(set(ranks)) > 1:
            raise Freeze("its ellipsis stands for different numbers of axes")
        spare = "".join(chr(0x100 + k) for k in range(ranks[0]))
        terms, right = [term.replace("...", spare) for term in terms], right.replace("...", spare)
    letters: dict[str, Labels] = {}
    held: dict[str, tuple[int, int]] = {}
    for slot, term in enumerate(terms):
        for axis, (letter, labels) in enumerate(zip(term, r.axes(slot), strict=True)):
            if letter in letters and len(labels) > 1 and len(letters[letter]) > 1:
                r.tie(letters[letter], labels)
            elif len(labels) > 1 or letter not in letters:
                letters[letter] = labels
            if len(labels) > 1 and (letter not in held or r.graph.concrete.holds(r.value(slot))):
                held[letter] = slot, axis
    for letter, (slot, axis) in held.items():
        if letter not in right:
            r.mix(slot, axis)
    r.give([r.atoms.resolve(letters[letter]) for letter in right])


_relate_integer = counterpart(_relate_matmul, Operand(0, zero=2, axes=(-2,)), Operand(1, zero=3, axes=(-1,)))
_relate_quantized = counterpart(_relate_matmul, Operand(0, 1, 2, axes=(-2,)), Operand(3, 4, 5, axes=(-1,)))
_relate_to_float = counterpart(_relate_gemm, Operand(0, 2, 4), Operand(1, 3, 5, axes=(-1,)), Operand(6))
_relate_stored = counterpart(_relate_gemm, Operand(0), Operand(1, 2, 3, axes=(-1,)), Operand(4))


def _relate_dynamic(r: Relation) -> None:
    """Numbers are turned into integers, all of them alike, and multiplied by integers."""
    ranged(r)
    _relate_stored(r)


def _relate_quantized_gemm(r: Relation) -> None:
    columns = -2 if r.integer("transB") else -1
    counterpart(_relate_gemm, Operand(0, 1, 2), Operand(3, 4, 5, axes=(columns,)), Operand(6))(r)


def _quantized(*weight_inputs: int, macs: Callable[[ir.Node], int] | None = None) -> Op:
    return replace(_left_alone(_QUANTIZED, *weight_inputs, macs=macs), quantizes=True)


def _macs_behind_scales(node: ir.Node) -> int:
    return _macs_matmul(node, b=3)


def _macs_quantized_gemm(node: ir.Node) -> int:
    return _macs_gemm(node, b=3)


_KNOWN = related(
    {
        "Gemm": Op(linear=_linear_gemm, macs=_macs_gemm, weights=(0, 1), biases=(2,)),
        "MatMul": Op(linear=_linear_matmul, macs=_macs_matmul, weights=(0, 1), annihilates=(0, 1)),
        "Einsum": _left_alone("constant operands of Einsum are not pruned", 0, 1, 2, macs=_macs_einsum),
        "MatMulInteger": _quantized(0, 1, macs=_macs_matmul),
        "QLinearMatMul": _quantized(0, 3, macs=_macs_behind_scales),
        "com.microsoft::FusedMatMul": _left_alone(
            "FusedMatMul is not pruned; export without runtime fusions", 0, 1, macs=_macs_fused
        ),
        "com.microsoft::FusedGemm": _left_alone(
            "FusedGemm is not pruned; export without runtime fusions", 0, 1, macs=_macs_fused
        ),
        "com.microsoft::GemmFastGelu": _left_alone(
            "GemmFastGelu is not pruned; export without runtime fusions", 1, macs=_macs_fused
        ),
        "com.microsoft::MatMulFpQ4": _quantized(1),
        "com.microsoft::MatMulIntegerToFloat": _quantized(0, 1, macs=_macs_matmul),
        "com.microsoft::DynamicQuantizeMatMul": replace(_quantized(1, macs=_macs_matmul), decides=True),
        "com.microsoft::QGemm": _quantized(0, 3, macs=_macs_quantized_gemm),
    },
    {
        _relate_matmul: "MatMul com.microsoft::FusedMatMul",
        _relate_gemm: "Gemm com.microsoft::FusedGemm com.microsoft::GemmFastGelu",
        _relate_einsum: "Einsum",
        _relate_integer: "MatMulInteger",
        _relate_quantized: "QLinearMatMul",
        _relate_quantized_gemm: "com.microsoft::QGemm",
        _relate_to_float: "com.microsoft::MatMulIntegerToFloat",
        _relate_dynamic: "com.microsoft::DynamicQuantizeMatMul",
    },
)

TABLE = differentiable(_KNOWN, RULES)
