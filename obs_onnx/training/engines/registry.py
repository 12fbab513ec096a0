"""All engines of training, one entry each; the code of one is imported when it is first opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFAULT", "TRAINERS", "Trainer"]

DEFAULT = "graph"


@dataclass(frozen=True)
class Trainer:
    """An engine.

    Attributes:
        place: ``module:name`` of its class, an :class:`~obs_onnx.training.engines.base.Opener`.
        optimizer: the best one with it, a name in :data:`obs_onnx.passes.autodiff.optimizers.OPTIMIZERS`.
        extra: of this package that brings what it needs; empty if nothing is missing without one.
    """

    place: str
    optimizer: str
    extra: str = ""


TRAINERS: Mapping[str, Trainer] = {
    "graph": Trainer("obs_onnx.training.engines.graph:GraphEngine", "foof"),
    "ort-training": Trainer(
        "obs_onnx.training.engines.ort_training:OrtTrainingEngine", "adamw", extra="training"
    ),
}
"""Name of an engine, as in ``--trainer`` -> the engine."""
