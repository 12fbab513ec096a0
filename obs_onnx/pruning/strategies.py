"""The ways of pruning, by name."""

from __future__ import annotations

from collections.abc import Mapping

from obs_onnx.pruning.channels.plan import ChannelStrategy
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.strategy import Strategy
from obs_onnx.pruning.weights.plan import WeightStrategy

__all__ = ["STRATEGIES"]

STRATEGIES: Mapping[str, Strategy[Attempt]] = {"channels": ChannelStrategy(), "weights": WeightStrategy()}
