"""All runtimes, one entry each; the code of one is imported when it is first opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Protocol

from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.spec import Options, kind_of, split_command, split_spec

__all__ = [
    "DEFAULT",
    "RUNTIMES",
    "Entry",
    "Opener",
    "calibration_runtime",
    "forms",
    "open_runtime",
    "to_install",
]

DEFAULT = "onnxruntime"


class Opener(Protocol):
    """A class of runtimes, or a function that makes one."""

    def __call__(
        self,
        where: str,
        threads: int | None,
        custom_ops: tuple[str, ...],
        *,
        options: Options,
        spinning: bool,
    ) -> Runtime:
        """A runtime.

        Args:
            where: provider, device or command of the SPEC; empty if it names none.
            threads, custom_ops, spinning: as for :func:`open_runtime`.
            options: ``KEY=VALUE`` of the SPEC.

        Raises:
            OptionError, MissingRuntimeError: as for :func:`open_runtime`.
        """


@dataclass(frozen=True)
class Entry:
    """A runtime.

    Attributes:
        place: ``module:name`` of its :class:`Opener`.
        form: of its SPEC, for people.
        extras: of this package, any of which brings what it needs; none where that is needed elsewhere.
        split: SPEC -> where, and options.
        calibrates: models can be looked into with it: it reads intermediate values in this process.
    """

    place: str
    form: str
    extras: tuple[str, ...] = ()
    split: Callable[[str], tuple[str, Options]] = split_spec
    calibrates: bool = False


RUNTIMES: Mapping[str, Entry] = {
    "onnxruntime": Entry(
        "obs_onnx.runtimes.onnxruntime:OrtRuntime",
        "onnxruntime[:PROVIDER]",
        extras=("cpu", "gpu", "ort-openvino", "training"),
        calibrates=True,
    ),
    "openvino": Entry(
        "obs_onnx.runtimes.openvino:OpenVinoRuntime", "openvino[:DEVICE]", extras=("openvino",)
    ),
    "command": Entry(
        "obs_onnx.runtimes.command.runtime:CommandRuntime", "command:PREFIX", split=split_command
    ),
}
"""Kind of a SPEC, the word that it starts with -> the runtime."""


def open_runtime(
    spec: str = DEFAULT,
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
    entry = RUNTIMES.get(kind_of(spec))
    if entry is None:
        raise OptionError(
            f"unknown runtime {spec!r}: use {forms()}, for example onnxruntime:CUDAExecutionProvider"
        )
    where, options = entry.split(spec)
    opener: Opener = resolve_name(entry.place)
    return opener(where, threads, tuple(custom_ops), options=options, spinning=spinning)


def calibration_runtime(
    spec: str = DEFAULT, threads: int | None = None, custom_ops: Sequence[str] = ()
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
    entry = RUNTIMES.get(kind_of(spec))
    local = spec if entry is not None and entry.calibrates else DEFAULT
    return open_runtime(local, threads, custom_ops, spinning=False)


def forms() -> str:
    """``onnxruntime[:PROVIDER], openvino[:DEVICE] or command:PREFIX``: what a SPEC may look like."""
    *others, last = (entry.form for entry in RUNTIMES.values())
    return f"{', '.join(others)} or {last}"


def to_install(kind: str) -> str:
    """``obs-onnx[cpu] (or [gpu])``: what brings the package behind a runtime."""
    first, *others = RUNTIMES[kind].extras
    return f"obs-onnx[{first}]" + (f" (or {', '.join(f'[{one}]' for one in others)})" if others else "")
