"""What a layer is: a constant weight and every node that multiplies by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from obs_onnx.passes.traits.linear import ConvGeometry, Integers, MatmulGeometry, WeightLayout

__all__ = ["Frozen", "Layer", "Use"]


@dataclass(frozen=True)
class Use:
    """One node that uses a layer's weight; all fields but the geometry are names in the graph.

    Attributes:
        node: name of the node.
        x: value that is multiplied.
        y: value that holds the result, bias included.
        bias: initializer of the per-output bias (own to this use), or None.
        bias_scale: factor on that bias.
        bias_integers: how the bias is stored, if not as it is.
        input_scale: initializer of the scale of ``x``, where that of the bias is this one times the weight's.
    """

    node: str
    x: str
    y: str
    geometry: ConvGeometry | MatmulGeometry
    bias: str | None = None
    bias_scale: float = 1.0
    bias_integers: Integers | None = None
    input_scale: str | None = None


@dataclass(frozen=True)
class Layer:
    """A constant weight and all nodes that multiply by it.

    Attributes:
        name: the initializer's name; of a weight that is stored as integers, that of these.
        op_type: operator of the first use.
        layout: how the tensor that is multiplied by becomes ``w_GOI``.
        uses: in topological order; the moments of all uses add up.
        integers: how that tensor is stored, if not as it is.
        factor: name of the value that is multiplied by; by default :attr:`name`.
    """

    name: str
    op_type: str
    layout: WeightLayout
    uses: tuple[Use, ...]
    integers: Integers | None = None
    factor: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", self.factor or self.name)

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
