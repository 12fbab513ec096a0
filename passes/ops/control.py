"""Operators with graphs of their own, and those that draw random numbers: nothing is known across them."""

from __future__ import annotations

from obs_onnx.passes.ops.vjp.control import RULES
from obs_onnx.passes.traits.lipschitz import independent, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, nothing

__all__ = ["TABLE"]

_NONE = Op(lipschitz=pointwise(None))
_SOURCE = Op(lipschitz=independent, random=True)

_RANDOM = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike"

_TABLE = {
    "If": _NONE,
    "Loop": _NONE,
    "Scan": _NONE,
    "SequenceMap": _NONE,
    **dict.fromkeys(_RANDOM.split(), _SOURCE),
    "Multinomial": Op(random=True, chooses=True),
}

TABLE = differentiable(_TABLE, {**RULES, nothing: f"{_RANDOM} Multinomial"})
