"""Where a model runs and is timed: one file per runtime behind one small protocol."""

from __future__ import annotations

from collections.abc import Sequence

from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.base import ModelSource, Runtime, Session

__all__ = ["ModelSource", "Runtime", "Session", "open_runtime"]


def open_runtime(
    spec: str = "onnxruntime",
    threads: int | None = None,
    custom_ops: Sequence[str] = (),
    *,
    spinning: bool = True,
) -> Runtime:
    """The runtime that ``spec`` names.

    Args:
        spec: ``onnxruntime``, or ``onnxruntime:PROVIDER`` (``cuda`` for CUDAExecutionProvider and so on).
        threads: of one operator; by default the physical cores this process may use.
        custom_ops: paths of libraries with custom operators.
        spinning: False for a runtime that shares its cores with other work between runs; True to time models.

    Raises:
        OptionError: an unknown runtime, provider or library, or a number of threads below 1.
        MissingRuntimeError: the package is not installed.
    """
    kind, _, detail = spec.partition(":")
    if kind == "onnxruntime":
        from obs_onnx.runtimes.ort import OrtRuntime

        return OrtRuntime(detail or None, threads, tuple(custom_ops), spinning=spinning)
    raise OptionError(
        f"unknown runtime {spec!r}: use 'onnxruntime' or 'onnxruntime:PROVIDER', "
        "for example onnxruntime:CUDAExecutionProvider"
    )
