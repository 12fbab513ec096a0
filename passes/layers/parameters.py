"""Parameters of a model: constants of floating-point type, and integers that stand for such numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from obs_onnx.passes.graph.parameters import float_tensors
from obs_onnx.passes.ops import linear
from obs_onnx.passes.ops.quantized.weights import integers_behind
from obs_onnx.passes.traits.linear import Integers

__all__ = ["Parameters", "integer_forms", "parameters"]


@dataclass(frozen=True)
class Parameters:
    """A constant.

    Attributes:
        tensor: as it is stored.
        form: how numbers are stored in it as integers, if they are.
        model: whose constant it is.
    """

    tensor: ir.TensorProtocol
    form: Integers | None
    model: ir.Model

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.tensor.size if self.form is None else math.prod(self.form.shape)

    @property
    def nbytes(self) -> int:
        """What it takes, without the scales of integers, which are parameters of their own."""
        zero = None if self.form is None or self.form.zero is None else self.form.zero
        points = None if zero is None else self.model.graph.initializers[zero].const_value
        own = points is not None and not points.dtype.is_floating_point()
        return self.tensor.nbytes + (points.nbytes if points is not None and own else 0)

    @property
    def nonzero(self) -> int:
        """How many of them are not zero."""
        if self.form is None:
            return int(np.count_nonzero(self.tensor.numpy()))
        held = self.model.graph.initializers
        arrays = {name: held[name].const_value.numpy() for name in self.form.names}  # type: ignore[union-attr]
        return int(np.count_nonzero(self.form.values(arrays)))


def integer_forms(model: ir.Model) -> dict[str, Integers]:
    """Initializers of the main graph that hold numbers as integers, and how."""
    found: dict[str, Integers] = {}
    for node in model.graph:
        forms: list[Integers | None] = []
        if node.op_type in ("DequantizeLinear", "Mul"):
            forms = [integers_behind(node.outputs[0])]
        elif (layer := linear(node)) is not None and layer.integers is not None:
            forms = [layer.integers]
        found.update({form.q: form for form in forms if form is not None})
    return found


def parameters(model: ir.Model) -> Iterator[Parameters]:
    """All parameters, those of bodies and local functions included, where they are of a floating-point
    type."""
    for tensor in float_tensors(model):
        yield Parameters(tensor, None, model)
    for name, form in integer_forms(model).items():
        tensor_ = model.graph.initializers[name].const_value
        assert tensor_ is not None
        yield Parameters(tensor_, form, model)
