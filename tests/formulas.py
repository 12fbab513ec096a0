"""Operators without a kernel for the CPU in tests: what their schemas say, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

__all__ = ["attend", "evaluated"]


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    scale: float | None = None,
    sinks: np.ndarray | None = None,
    causal: bool = False,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Queries (tokens, heads, width) against keys and values (tokens, shared, width), which heads share.

    ``bias`` (heads or 1, tokens, tokens) is added to the scores; ``sinks`` (heads) take part in the softmax.
    """
    key, value = (np.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
    scores = np.einsum("qhw,khw->hqk", query, key) * (scale or query.shape[2] ** -0.5)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = np.where(np.tri(*scores.shape[1:], scores.shape[2] - scores.shape[1], bool), scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - highest)
    return np.einsum("hqk,khw->qhw", weights / total, value).astype(np.float32)


def evaluated(model: ir.Model, feeds: Mapping[str, np.ndarray], *operators: type[OpRun]) -> list[np.ndarray]:
    """Outputs of ``model``, with what ``operators`` say."""
    given = ReferenceEvaluator(ir.to_proto(model), new_ops=list(operators))
    return given.run(None, dict(feeds))
