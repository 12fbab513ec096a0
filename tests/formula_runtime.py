"""A runtime that computes with onnxruntime and takes the time that a formula says, not that of a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.base import Session

Formula = Callable[[onnx.ModelProto], float]


def in_steps(step: int = 16, fixed: float = 20e-6) -> Formula:
    """Seconds of a model whose layers multiply whole steps of channels: products of the padded weights."""

    def seconds(model: onnx.ModelProto) -> float:
        total = 0.0
        for weight in model.graph.initializer:
            if len(weight.dims) >= 2 and weight.data_type == onnx.TensorProto.FLOAT:
                padded = [-(-n // step) * step for n in weight.dims[:2]] + list(weight.dims[2:])
                total += float(np.prod(padded))
        return fixed + 1e-6 * len(model.graph.node) + 2e-8 * total

    return seconds


def slower_when_smaller(model: onnx.ModelProto) -> float:
    """Seconds of a model on a runtime that punishes all removal."""
    held = sum(numpy_helper.to_array(t).size for t in model.graph.initializer if len(t.dims) >= 2)
    return 1.0 / (100 + held)


class FormulaSession:
    """A session of :class:`FormulaRuntime`."""

    def __init__(self, session: Session, seconds: float, runtime: FormulaRuntime) -> None:
        self._session, self._seconds, self._runtime = session, seconds, runtime
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, feed: Any, outputs: Any = None) -> Any:
        return self._session.run(feed, outputs)

    def time(self, feed: Any, runs: int) -> list[float]:
        self._runtime.timings += 1
        self._runtime.feeds.append({name: array.shape for name, array in feed.items()})
        return [self._seconds] * runs


class FormulaRuntime:
    """See the module. ``refuses`` names an operator that it only takes inside of larger models."""

    in_process = False
    affinity = None
    quantum = 8
    threads = 1
    spec = "formula"

    def __init__(self, formula: Formula, refuses: str | None = None, load: float = 0.0) -> None:
        self._inner = open_runtime("onnxruntime", 1)
        self._formula, self._refuses, self._load = formula, refuses, load
        self.timings, self.feeds = 0, list[dict[str, tuple[int, ...]]]()

    def session(self, model: Any, external_data: Any = None) -> FormulaSession:
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        layers = [n for n in proto.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
        if len(layers) == 1 and layers[0].op_type == self._refuses:
            raise ModelError(f"formula cannot load the model: no lone {self._refuses}")
        return FormulaSession(self._inner.session(model, external_data), self._formula(proto), self)

    def environment(self) -> dict[str, Any]:
        return {"runtime": "formula", "version": "1", "threads": 1}

    def machine(self) -> dict[str, Any]:
        return {"cpu": "paper", "logical_cores": 4, "load_average": self._load}
