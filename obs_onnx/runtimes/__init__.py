"""Where a model runs and is timed: one file per runtime behind one small protocol.

In: a model and feeds. Out: arrays, and seconds per run. Next: :mod:`obs_onnx.calibration` looks into models
with it, :mod:`obs_onnx.latency` times them.
"""

from __future__ import annotations

from collections.abc import Sequence

from obs_onnx.passes.errors import OptionError, boundary, named
from obs_onnx.runtimes.base import ModelSource, Runtime, Session
from obs_onnx.runtimes.spec import kind_of, split_command, split_spec

__all__ = ["ModelSource", "Runtime", "Session", "calibration_runtime", "open_runtime"]


def open_runtime(
    spec: str = "onnxruntime",
    threads: int | None = None,
    custom_ops: Sequence[str] = (),
    *,
    spinning: bool = True,
) -> Runtime:
    """The runtime that ``spec`` names; docs/runtimes.md has all of them and their options.

    Args:
        spec: ``onnxruntime[:PROVIDER][,KEY=VALUE...]`` (``cuda`` for CUDAExecutionProvider and so on),
            ``openvino[:DEVICE][,KEY=VALUE...]``, or ``command[,KEY=VALUE...]:PREFIX``.
        threads: of one operator; by default the physical cores this process may use.
        custom_ops: paths of libraries with custom operators, on the machine where models run.
        spinning: False for a runtime that shares its cores with other work between runs; True to time models.

    Raises:
        OptionError: an unknown runtime, provider, option or library, or a number of threads below 1.
        MissingRuntimeError: the package is not installed.
    """
    with boundary(f"{named('runtime')} {spec}", OptionError):
        return _opened(spec, threads, tuple(custom_ops), spinning)


def _opened(spec: str, threads: int | None, custom_ops: tuple[str, ...], spinning: bool) -> Runtime:
    kind = kind_of(spec)
    if kind == "onnxruntime":
        from obs_onnx.runtimes.onnxruntime import OrtRuntime

        provider, options = split_spec(spec)
        return OrtRuntime(provider or None, threads, custom_ops, options=options, spinning=spinning)
    if kind == "openvino":
        from obs_onnx.runtimes.openvino import OpenVinoRuntime

        device, options = split_spec(spec)
        return OpenVinoRuntime(device or "CPU", threads, custom_ops, options=options)
    if kind == "command":
        from obs_onnx.runtimes.command.runtime import CommandRuntime

        prefix, options = split_command(spec)
        return CommandRuntime(prefix, threads, custom_ops, options=options)
    raise OptionError(
        f"unknown runtime {spec!r}: use 'onnxruntime[:PROVIDER]', 'openvino[:DEVICE]' or 'command:PREFIX', "
        "for example onnxruntime:CUDAExecutionProvider"
    )


def calibration_runtime(
    spec: str = "onnxruntime", threads: int | None = None, custom_ops: Sequence[str] = ()
) -> Runtime:
    """Where to run a model that is to be looked into, if it will be deployed on the runtime of ``spec``.

    Calibration reads intermediate values of the graph and moves much data, so it stays on an onnxruntime of
    this process, whose idle threads leave the cores to other work.

    Args:
        spec: of the runtime on which models are timed; counts if it is an onnxruntime.
        threads, custom_ops: as for :func:`open_runtime`.

    Raises:
        OptionError, MissingRuntimeError: as for :func:`open_runtime`.
    """
    local = spec if kind_of(spec) == "onnxruntime" else "onnxruntime"
    return open_runtime(local, threads, custom_ops, spinning=False)
