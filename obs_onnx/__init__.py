"""obs-onnx: prune any ONNX model with layer-wise Optimal Brain Surgeon, and prove the result.

    from obs_onnx import prune
    result = prune("model.onnx", targets={"sparsity": 0.9}, calib="calibration.npz")

Everything is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.entrypoints.artifacts import Artifacts, artifacts
    from obs_onnx.entrypoints.bench import bench
    from obs_onnx.entrypoints.evaluate import evaluate
    from obs_onnx.entrypoints.finetune import Finetuned, finetune
    from obs_onnx.entrypoints.gradient import gradient
    from obs_onnx.entrypoints.inspect import inspect
    from obs_onnx.entrypoints.joined.several_files import join, split
    from obs_onnx.entrypoints.pareto import Pareto, pareto
    from obs_onnx.entrypoints.prune import ObsPrune, Pruned, prune
    from obs_onnx.entrypoints.quantize import QuantizeResult, quantize
    from obs_onnx.entrypoints.replay import Replayed, replay
    from obs_onnx.entrypoints.score import Scores, score

    __version__: str

if find_spec(f"{__name__}.passes") is None:  # which the folder passes/ becomes by installation
    raise ImportError("obs_onnx is not installed: run pip install '.[cpu]' in the folder it came in")

__all__ = [
    "Artifacts",
    "Finetuned",
    "ObsPrune",
    "Pareto",
    "Pruned",
    "QuantizeResult",
    "Replayed",
    "Scores",
    "__version__",
    "artifacts",
    "bench",
    "evaluate",
    "finetune",
    "gradient",
    "inspect",
    "join",
    "pareto",
    "prune",
    "quantize",
    "replay",
    "score",
    "split",
]

_HOMES = {
    "Artifacts": "entrypoints.artifacts",
    "Finetuned": "entrypoints.finetune",
    "Pareto": "entrypoints.pareto",
    "ObsPrune": "entrypoints.prune",
    "Pruned": "entrypoints.prune",
    "QuantizeResult": "entrypoints.quantize",
    "Replayed": "entrypoints.replay",
    "Scores": "entrypoints.score",
    "artifacts": "entrypoints.artifacts",
    "bench": "entrypoints.bench",
    "evaluate": "entrypoints.evaluate",
    "finetune": "entrypoints.finetune",
    "gradient": "entrypoints.gradient",
    "inspect": "entrypoints.inspect",
    "join": "entrypoints.joined.several_files",
    "pareto": "entrypoints.pareto",
    "prune": "entrypoints.prune",
    "quantize": "entrypoints.quantize",
    "replay": "entrypoints.replay",
    "score": "entrypoints.score",
    "split": "entrypoints.joined.several_files",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("obs-onnx")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
