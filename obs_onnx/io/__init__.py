"""Files: models, JSON, and how anything is written.

In: paths that users give. Out: checked :class:`onnx_ir.Model` objects; files that appear whole or not at all.
Next: :mod:`obs_onnx.passes` takes the models, :mod:`obs_onnx.entrypoints` writes the results. Models
are read by a library that is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.io.model_files import files_of
    from obs_onnx.io.onnx_file import load_model, save_model, serialize

__all__ = ["files_of", "load_model", "save_model", "serialize"]

_HOMES = {
    "files_of": "obs_onnx.io.model_files",
    "load_model": "obs_onnx.io.onnx_file",
    "save_model": "obs_onnx.io.onnx_file",
    "serialize": "obs_onnx.io.onnx_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
