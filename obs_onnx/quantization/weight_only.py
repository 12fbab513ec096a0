"""Weights in integers, everything else in float: smaller files, and less to read from memory.

Of 8 bits a weight is read through DequantizeLinear, with a scale for each output and the zero point 0. Of 4
bits the weight of a product becomes that of MatMulNBits (of onnxruntime, in com.microsoft): a scale and a
zero point for each block of inputs of an output, two integers in a byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError, VerificationError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.writer import Writer, take_over
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops import lookup
from obs_onnx.passes.printable import first_of
from obs_onnx.passes.traits.linear import packed, unpacked
from obs_onnx.quantization.calibration import Calibration, Made
from obs_onnx.quantization.rounded_layers import (
    LayerForm,
    RoundedLayer,
    RoundedModel,
    along,
    nearest_layers,
    output_axis,
    round_layers,
)
from obs_onnx.solvers import GridKind

__all__ = ["Blocks", "EightBits", "Form", "quantize_weights"]

_AXIS_OPSET, _SCALE_OPSET = 13, 10  # of DequantizeLinear, and of its axis
_BITS = 4
_MICROSOFT = "com.microsoft"
_NAMED = 3  # weights in a note
_GRID_BYTES = 5  # scale and zero point of a block, about


class Form(Protocol):
    """How weights in integers are written."""

    def forms(self, model: ir.Model) -> Sequence[LayerForm]:
        """Layers of a float model, and the grids that they go to.

        Raises:
            OptionError: there is none.
        """

    def write(self, rounded: RoundedModel) -> ir.Model:
        """The model with integers for weights."""

    def read(self, model: ir.Model, one: RoundedLayer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Integers and zero points (G, O, I) of a layer, as a written model has them."""


def quantize_weights(model: ir.Model, form: Form, given: Calibration) -> Made:
    """The model with weights in integers, rounded by error feedback.

    Nearest rounding stays where it errs less on held-out data.

    Args:
        model: of float32.
        form: of the result.
        given: data and runtime.

    Raises:
        OptionError: no layer can be quantized.
        VerificationError: the integers in the model are others, or a zero is none.
    """
    forms = form.forms(model)
    nearest = nearest_layers(model, forms)
    fed_back = round_layers(
        given.runtime, model, forms, given.fit, budget=given.budget, damping=given.damping
    )
    tried = {"error feedback": fed_back, "nearest rounding": nearest}
    written = {name: form.write(one) for name, one in tried.items()}
    errors = given.errors(model, written)
    best = min(errors, key=lambda name: errors[name])
    zeros = _check(model, written[best], tried[best], form)
    others = [name for name in find_weights(model) if name not in tried[best].layers]
    notes = [
        f"weights of {len(forms)} layers are integers by {best}, the one of least output error on held-out "
        f"data: {', '.join(f'{name} {error:.3g}' for name, error in errors.items())}",
        *([f"{zeros} zeros of weights are zeros of the integers"] if zeros else []),
        *([f"{first_of(others, _NAMED)} stay{'s' * (len(others) == 1)} in float"] if others else []),
    ]
    return Made(written[best], tuple(notes))


def find_weights(model: ir.Model) -> list[str]:
    """Names of initializers of float that operators take for weights."""
    floats = {k: value for k, value in model.graph.initializers.items() if value.dtype in node_facts.FLOATS}
    return [k for k, value in floats.items() if any(u.idx in lookup(u.node).weights for u in value.uses())]


def _check(model: ir.Model, written: ir.Model, rounded: RoundedModel, form: Form) -> int:
    """Check that the integers are in the model, and the zeros of weights among them; how many there are."""
    zeros = 0
    for name, one in rounded.layers.items():
        q, zero = form.read(written, one)
        if not np.array_equal(q, one.integers):
            raise VerificationError(f"integers of weight {name} are others in the quantized model")
        gone = one.layer.layout.to_matrix(_initializer(model, name)) == 0
        if (q != zero)[gone].any():
            raise VerificationError(f"zeros of weight {name} are no zeros after quantization")
        zeros += int(gone.sum())
    return zeros


@dataclass(frozen=True)
class EightBits:
    """All layers in integers of 8 bits, written with standard operators."""

    def forms(self, model: ir.Model) -> Sequence[LayerForm]:
        """Layers, and the grids that they go to; none for each output where no axis is that of the outputs.

        Raises:
            OptionError: the model's opset has no DequantizeLinear.
        """
        opset = model.opset_imports.get("", 0)
        if opset < _SCALE_OPSET:
            raise OptionError(
                f"int8-weights needs opset {_SCALE_OPSET}, and the model has {opset}: "
                "convert it to a newer one"
            )
        return [
            LayerForm(layer, GridKind(shared=opset < _AXIS_OPSET or output_axis(layer) is None))
            for layer in find_layers(model)[0]
        ]

    def write(self, rounded: RoundedModel) -> ir.Model:
        """The model with integers for weights."""
        model = rounded.model.clone()
        names = Names(model)
        for name, one in rounded.layers.items():
            value = model.graph.initializers[name]
            q = names.initializer(f"{name}_quantized", ir.Tensor(one.q.astype(np.int8)))
            axis = None if one.grid.scale.size == 1 else output_axis(one.layer)
            scale = names.initializer(f"{name}_scale", ir.Tensor(along(one.scale, axis)))
            attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
            users = [use.node for use in value.uses()]
            first = next(node for node in model.graph if node in users)
            found = Writer(names, first).op("DequantizeLinear", [q, scale], *attributes)
            found.type, found.shape = value.type, value.shape
            ir.convenience.replace_all_uses_with(value, found)
            remove_if_unused(model, value)
        return model

    def read(self, model: ir.Model, one: RoundedLayer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Integers and zero points (G, O, I) as a written model has them."""
        q = _initializer(model, f"{one.layer.name}_quantized").astype(np.int64)
        found = one.layer.layout.to_matrix(q) * (1 / one.layer.layout.scale)
        return np.rint(found).astype(np.int64), np.zeros(1, np.int64)


@dataclass(frozen=True)
class Blocks:
    """Weights of matrix products in integers of 4 bits.

    Attributes:
        size: inputs of a block.
    """

    size: int = 32

    def forms(self, model: ir.Model) -> Sequence[LayerForm]:
        """Layers, and the grids that they go to.

        Raises:
            OptionError: there is no layer that MatMulNBits could be.
        """
        kind = GridKind(0, 2**_BITS - 1, None, self.size)
        nodes = {str(node.name): node for node in model.graph}
        found = [
            LayerForm(layer, kind)
            for layer in find_layers(model)[0]
            if all(self._fits(nodes[use.node], layer) for use in layer.uses)
        ]
        if not found:
            raise OptionError(
                f"int4-weights: no MatMul or Gemm has a constant weight on its right "
                f"that blocks of {self.size} make smaller; int8-weights takes others"
            )
        return found

    def _fits(self, node: ir.Node, layer: Layer) -> bool:
        """Whether a node is a product ``x W`` with a weight that is smaller in blocks."""
        linear = lookup(node).linear
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm") or linear is None:
            return False
        right = node.inputs[1] is not None and node.inputs[1].name == layer.name
        plain = not node_facts.int_attribute(node, "transA")
        scaled = len(node.inputs) > 2 and node_facts.float_attribute(node, "beta", 1.0) != 1
        columns = layer.layout.goi[2]
        bytes_ = math.ceil(columns / self.size) * (self.size // 2 + _GRID_BYTES)
        return right and plain and not scaled and len(layer.layout.shape) == 2 and bytes_ < 4 * columns

    def write(self, rounded: RoundedModel) -> ir.Model:
        """The model with MatMulNBits for products."""
        model = rounded.model.clone()
        model.opset_imports.setdefault(_MICROSOFT, 1)
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        for name, one in rounded.layers.items():
            value = model.graph.initializers[name]
            constants = self._constants(names, one)
            for use in one.layer.uses:
                self._replace(names, nodes[use.node], constants, one)
            remove_if_unused(model, value)
        return model

    def _constants(self, names: Names, one: RoundedLayer) -> list[ir.Value]:
        (q,), grid = one.integers, one.grid
        rows, columns = q.shape
        count = math.ceil(columns / self.size)
        bytes_ = np.pad(q, ((0, 0), (0, count * self.size - columns))).astype(np.uint8)
        arrays = {
            "quantized": packed(bytes_.reshape(rows, count, self.size), _BITS),
            "scale": grid.scale[0].astype(np.float32),
            "zero_point": packed(grid.zero[0].astype(np.uint8), _BITS),
        }
        return [
            names.initializer(f"{one.layer.name}_{end}", ir.Tensor(array)) for end, array in arrays.items()
        ]

    def _replace(self, names: Names, node: ir.Node, constants: list[ir.Value], one: RoundedLayer) -> None:
        _, rows, columns = one.layer.layout.goi
        numbers = {"K": columns, "N": rows, "bits": _BITS, "block_size": self.size}
        attributes = [ir.AttrInt64(key, number) for key, number in numbers.items()]
        writer, old = Writer(names, node), node.outputs[0]
        found = writer.op("MatMulNBits", [node.inputs[0], *constants], *attributes, domain=_MICROSOFT)
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            found = writer.op("Add", [found, node.inputs[2]])
        found.type, found.shape = old.type, old.shape
        take_over(names, old, found)
        assert node.graph is not None
        node.graph.remove(node, safe=True)

    def read(self, model: ir.Model, one: RoundedLayer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Integers and zero points (G, O, I) as a written model has them."""
        _, rows, columns = one.layer.layout.goi
        bytes_ = _initializer(model, f"{one.layer.name}_quantized").astype(np.uint8)
        q = unpacked(bytes_.reshape(rows, -1), _BITS, columns)
        count = math.ceil(columns / self.size)
        zero = unpacked(_initializer(model, f"{one.layer.name}_zero_point").astype(np.uint8), _BITS, count)
        spread = np.repeat(zero, self.size, axis=1)[:, :columns]
        return q[None].astype(np.int64), spread[None].astype(np.int64)


def _initializer(model: ir.Model, name: str) -> NDArray[np.generic]:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None:
        raise VerificationError(f"{name} is missing after quantization")
    return value.const_value.numpy()
