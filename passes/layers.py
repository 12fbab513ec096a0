"""Layers: whatever multiplies an activation by a constant weight, brought to one canonical form.

Every weight becomes ``w_GOI`` (groups, outputs per group, inputs per group) and every input of it
``x_GNI`` (groups, positions, inputs per group), so that nobody asks afterwards what kind of layer it
was. For convolutions the last axis of ``w_GOI`` runs over kernel offsets first and input channels last
(channels are neighbours): N:M patterns and blocks along the input axis are then plain runs of columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.traversal import RecursiveGraphIterator

__all__ = [
    "ConvGeometry",
    "Frozen",
    "Layer",
    "Linear",
    "MatmulGeometry",
    "Use",
    "WeightLayout",
    "bias_add",
    "bias_candidate",
    "find_layers",
]


@dataclass(frozen=True)
class ConvGeometry:
    """How a (transposed) convolution lays its kernel over ``x`` of shape (N, G * I, *spatial).

    Attributes:
        kernel, strides, dilations: one entry per spatial axis.
        pads: begin of every axis, then end of every axis (ONNX order); ignored unless ``auto_pad`` is NOTSET.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        groups: number of groups.
        transposed: True for ConvTranspose.
        output_padding: ConvTranspose only, one entry per spatial axis.
        output_shape: ConvTranspose only; the requested spatial shape, or None.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MatmulGeometry:
    """Which axis of ``x`` and of ``y`` the weight contracts and makes.

    Attributes:
        input_axis: -1 or -2, axis of ``x`` that is summed over.
        output_axis: -1 or -2, axis of ``y`` that the weight's outputs span.
        groups: product of the weight's own leading (batch) dimensions, which are then also those of ``x``.
    """

    input_axis: int = -1
    output_axis: int = -1
    groups: int = 1


@dataclass(frozen=True)
class WeightLayout:
    """Reversible way from the stored tensor to ``w_GOI``: reshape to ``split``, transpose, reshape.

    Attributes:
        shape: of the stored tensor.
        split: shape after the first reshape.
        perm: axes order that puts groups, then outputs, then inputs.
        goi: (groups, outputs per group, inputs per group).
        scale: factor between the stored tensor and the effective weight (alpha of Gemm).
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    goi: tuple[int, int, int]
    scale: float = 1.0

    def to_matrix(self, tensor: NDArray[np.generic]) -> NDArray[np.float64]:
        """Effective weight ``w_GOI`` in float64 of the stored ``tensor``."""
        w_GOI = tensor.astype(np.float64).reshape(self.split).transpose(self.perm).reshape(self.goi)
        return np.asarray(w_GOI * self.scale, dtype=np.float64)

    def to_tensor(self, w_GOI: NDArray[np.floating]) -> NDArray[np.float64]:
        """Stored tensor (float64) of the effective weight; inverse of :meth:`to_matrix`."""
        permuted = tuple(self.split[axis] for axis in self.perm)
        inverse = tuple(np.argsort(self.perm))
        tensor = (w_GOI / self.scale).reshape(permuted).transpose(inverse).reshape(self.shape)
        return np.asarray(tensor, dtype=np.float64)


@dataclass(frozen=True)
class Linear:
    """What an operator's table says about one node that multiplies by a constant weight.

    Attributes:
        weight_input, data_input: positions among the node's inputs.
        bias_input: position of a constant per-output bias, or None.
        bias_scale: factor on that bias (beta of Gemm).
        layout, geometry: see there.
    """

    weight_input: int
    data_input: int
    layout: WeightLayout
    geometry: ConvGeometry | MatmulGeometry
    bias_input: int | None = None
    bias_scale: float = 1.0


@dataclass(frozen=True)
class Use:
    """One node that uses a layer's weight; all fields but the geometry are names in the graph.

    Attributes:
        node: name of the node.
        x: value that is multiplied.
        y: value that holds the result, bias included.
        bias: initializer of the per-output bias (own to this use), or None.
        bias_scale: factor on that bias.
    """

    node: str
    x: str
    y: str
    geometry: ConvGeometry | MatmulGeometry
    bias: str | None = None
    bias_scale: float = 1.0


@dataclass(frozen=True)
class Layer:
    """A constant weight and all nodes that multiply by it.

    Attributes:
        name: the initializer's name.
        op_type: operator of the first use.
        layout: how the initializer becomes ``w_GOI``.
        uses: in topological order; the moments of all uses add up.
    """

    name: str
    op_type: str
    layout: WeightLayout
    uses: tuple[Use, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.layout.shape)


@dataclass(frozen=True)
class Frozen:
    """A node that is left alone, or on account of which something cannot be removed.

    Attributes:
        node: name of the node.
        op_type: its operator (with the domain outside the default one).
        reason: why, as the report prints it.
    """

    node: str
    op_type: str
    reason: str


def find_layers(model: ir.Model) -> tuple[list[Layer], list[Frozen]]:
    """All prunable weights of a canonical ``model``, and all other weights with the reason.

    Returns:
        Layers in topological order of their first use, and one :class:`Frozen` for each node that holds
        weights which stay as they are.
    """
    from obs_onnx.passes.ops import key, lookup  # the tables describe nodes in the terms of this module

    frozen: dict[ir.Node, str] = {}
    found: dict[ir.Value, list[tuple[ir.Node, Linear]]] = {}
    for node in RecursiveGraphIterator(model.graph):
        op = lookup(node)
        if op is None or op.linear is None:
            continue
        linear = op.linear(node)
        if linear is None:
            linear = _computed_weight(node)
        elif node.graph is not model.graph:
            linear = "weights used inside the body of a control flow operator are not pruned"
        if isinstance(linear, str):
            frozen[node] = linear
        elif linear is not None:
            weight = node.inputs[linear.weight_input]
            assert weight is not None
            found.setdefault(weight, []).append((node, linear))

    layers, living = [], _living(model.graph)
    for weight, uses in found.items():
        reason = _why_frozen(weight, uses)
        if not any(node in living for node, _ in uses):
            reason = "no output of the model depends on it"
        if reason is not None:
            frozen.update((node, reason) for node, _ in uses)
            continue
        first, linear = uses[0]
        layers.append(
            Layer(str(weight.name), key(first), linear.layout, tuple(_use(node, lin) for node, lin in uses))
        )
    return layers, [Frozen(str(node.name), key(node), reason) for node, reason in frozen.items()]


def _living(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that an output of the graph, or a body inside it, depends on."""
    living: set[ir.Node] = set()
    for node in reversed(graph):
        for value in node.outputs:
            users = (usage.node for usage in value.uses())
            if value.is_graph_output() or any(user.graph is not graph or user in living for user in users):
                living.add(node)
                break
    return living


def _computed_weight(node: ir.Node) -> str | None:
    """Why the weight is not prunable when one operand is computed from constants and the other is not."""
    from obs_onnx.passes.ops import facts

    operands = [(value, facts.constant_cone(value)) for value in node.inputs[:2] if value is not None]
    computed = [(value, cone) for value, cone in operands if cone]
    if len(operands) < 2 or len(computed) != 1 or any(cone == [] for _, cone in operands):
        return None
    value, cone = computed[0]
    stored = [v for member in cone for v in member.inputs if v is not None and v.is_initializer()]
    largest = max(stored, key=facts.size, default=None)
    if any("DequantizeLinear" in member.op_type for member in cone):
        return "quantized weights are not pruned"
    if largest is None or facts.size(largest) < 2:
        return None
    for usage in largest.uses():
        if usage.node not in cone:
            return f"its weight {largest.name} is also used by {usage.node.op_type} {usage.node.name}"
    return f"its weight is computed from {largest.name} by {value.producer().op_type}"  # type: ignore[union-attr]


def _why_frozen(weight: ir.Value, uses: list[tuple[ir.Node, Linear]]) -> str | None:
    if weight.meta.get("sparse"):
        return f"its weight {weight.name} is stored as a sparse tensor"
    if weight.is_graph_output():
        return f"its weight {weight.name} is an output of the model"
    own = {(node, linear.weight_input) for node, linear in uses}
    others = [usage.node for usage in weight.uses() if (usage.node, usage.idx) not in own]
    if others:
        return f"its weight {weight.name} is also used by {others[0].op_type} {others[0].name}"
    if len({linear.layout for _, linear in uses}) > 1:
        return f"its weight {weight.name} is used in several layouts"
    return None


def _use(node: ir.Node, linear: Linear) -> Use:
    x, y, bias = node.inputs[linear.data_input], node.outputs[0], None
    if linear.bias_input is not None:
        bias = node.inputs[linear.bias_input]
    elif isinstance(linear.geometry, MatmulGeometry) and node.op_type == "MatMul":
        y, bias = bias_add(y, linear)
    assert x is not None
    return Use(
        str(node.name),
        str(x.name),
        str(y.name),
        linear.geometry,
        None if bias is None else str(bias.name),
        linear.bias_scale,
    )


def bias_add(y: ir.Value, linear: Linear) -> tuple[ir.Value, ir.Value | None]:
    """The value after the bias, and the bias, of a product ``y`` that an Add follows; else ``(y, None)``.

    A constant that other nodes use as well is no bias: it could not be changed for this node alone. Nor is a
    mask of infinities.
    """
    candidate = bias_candidate(y, linear)
    if candidate is None:
        return y, None
    add, index = candidate
    bias = add.inputs[index]
    assert bias is not None
    if len(list(bias.uses())) != 1 or bias.is_graph_output():
        return y, None
    if bias.const_value is not None and not np.isfinite(bias.const_value.numpy().astype(np.float64)).all():
        return y, None
    return add.outputs[0], bias


def bias_candidate(y: ir.Value, linear: Linear) -> tuple[ir.Node, int] | None:
    """The Add that alone uses the product ``y``, and the position of its constant, if that is a bias.

    The constant must have one element per output along the output axis (and per group) and be broadcast along
    all other axes, without widening ``y``.
    """
    assert isinstance(linear.geometry, MatmulGeometry)
    uses = list(y.uses())
    if len(uses) != 1 or y.is_graph_output():
        return None
    add, index = uses[0].node, 1 - uses[0].idx
    if add.op_type != "Add" or add.domain != "" or add.graph is not y.graph:
        return None
    bias = add.inputs[index]
    if bias is None or not bias.is_initializer() or bias.const_value is None:
        return None
    shape = tuple(int(dim) for dim in bias.const_value.shape.numpy())
    groups, outputs, _ = linear.layout.goi
    trailing = (outputs,) if linear.geometry.output_axis == -1 else (outputs, 1)
    if groups == 1:
        fits = shape[-len(trailing) :] == trailing and math.prod(shape) == outputs
    else:
        matrix = (1, outputs) if linear.geometry.output_axis == -1 else (outputs, 1)
        fits = shape == (*linear.layout.shape[:-2], *matrix)
    widens = len(shape) > len(trailing) and (y.shape is None or len(y.shape) < len(shape))
    return (add, index) if fits and not widens else None
