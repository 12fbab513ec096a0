"""What users have, as batches of arrays.

In: a path, arrays, a reader, ``module:function`` or ``random:N``. Out: a
:class:`~obs_onnx.data.sources.Source` of complete feeds, checked against the model's inputs and split into a
part to fit on and a held-out part. Next:
:mod:`obs_onnx.calibration` carries it through the model, :mod:`obs_onnx.evaluation` measures on it.
What can be told of data without reading it is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.data.fixed import all_with_fixed
    from obs_onnx.data.source_files import files_of, holds

__all__ = ["all_with_fixed", "files_of", "holds"]

_HOMES = {
    "all_with_fixed": "obs_onnx.data.fixed",
    "files_of": "obs_onnx.data.source_files",
    "holds": "obs_onnx.data.source_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
