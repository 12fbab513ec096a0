"""The dense model, in the form that is calibrated: what every pruned one is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes import Runtime, Session

__all__ = ["DenseModel"]


@dataclass(frozen=True)
class DenseModel:
    """A model before anything is pruned.

    Attributes:
        model: in the form that is calibrated.
        layers: that may change.
        stages: of ``layers``.
        runtime: where models are calibrated and judged.
        session: of ``model``.
        cost: of one run on one sample.
        accuracy: on labelled data, if there is any.
    """

    model: ir.Model
    layers: Sequence[Layer]
    stages: Plan
    runtime: Runtime
    session: Session
    cost: RunCost
    accuracy: float | None
