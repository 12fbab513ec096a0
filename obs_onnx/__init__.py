"""obs-onnx: prune any ONNX model with layer-wise Optimal Brain Surgeon, and prove the result.

    from obs_onnx import prune
    result = prune("model.onnx", targets={"sparsity": 0.9}, calib="calibration.npz")

Everything is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.differentiate import gradient
    from obs_onnx.evaluation import evaluate
    from obs_onnx.finetuning import Finetuned, finetune
    from obs_onnx.frontier import Pareto, pareto
    from obs_onnx.inspection import inspect
    from obs_onnx.on_device import Artifacts, artifacts
    from obs_onnx.pipeline import Pruned, prune
    from obs_onnx.scoring import Scores, score
    from obs_onnx.timing import bench

__version__ = "0.1.0"

__all__ = [
    "Artifacts",
    "Finetuned",
    "Pareto",
    "Pruned",
    "Scores",
    "__version__",
    "artifacts",
    "bench",
    "evaluate",
    "finetune",
    "gradient",
    "inspect",
    "pareto",
    "prune",
    "score",
]

_HOMES = {
    "Artifacts": "on_device",
    "Finetuned": "finetuning",
    "Pareto": "frontier",
    "Pruned": "pipeline",
    "Scores": "scoring",
    "artifacts": "on_device",
    "bench": "timing",
    "evaluate": "evaluation",
    "finetune": "finetuning",
    "gradient": "differentiate",
    "inspect": "inspection",
    "pareto": "frontier",
    "prune": "pipeline",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
