"""Costs from a command that looks at a model and prints JSON: any vendor's tool is a stopwatch, and a scale.

    command[,timeout=SECONDS]:WORDS...

The words are split as a shell does, though no shell sees them. ``{model}`` among them stands for the file of
the model, which is added at the end where it does not. What is printed, or its last line, is an object with
some of ``latency_ms``, ``ram_bytes`` and ``flash_bytes``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.printable import one_line
from obs_onnx.runtimes.base import ModelSource, Runtime, Session
from obs_onnx.runtimes.spec import check_options, kind_of, split_command

__all__ = ["Tool", "ToolCosts", "ToolRuntime"]

_TIMEOUT = 600.0
_SHOWN = 200  # characters of what a command said
_MODEL = "{model}"


@dataclass(frozen=True)
class ToolCosts:
    """What a command says of a model; None of what it says nothing about.

    Attributes:
        latency_ms: of one run.
        ram_bytes: that a run needs.
        flash_bytes: that the model takes.
    """

    latency_ms: float | None = None
    ram_bytes: float | None = None
    flash_bytes: float | None = None


class Tool:
    """A command that tells costs; a model that it was asked about is known.

    Args:
        spec: as above.

    Raises:
        OptionError: ``spec`` is none.
    """

    def __init__(self, spec: str) -> None:
        if kind_of(spec) != "command":
            raise OptionError(
                f"{named('cost')} {spec!r} is unknown: write command: and what tells costs, for example "
                "'command:mytool --model {model}'"
            )
        words, options = split_command(spec)
        check_options("command", options, {"timeout": None})
        try:
            self.words = shlex.split(words)
            self.timeout = float(options.get("timeout", _TIMEOUT))
        except ValueError as error:
            raise OptionError(f"{named('cost')} {spec!r} cannot be read: {error}") from error
        if not self.timeout > 0:
            raise OptionError(f"{named('cost')} {spec!r}: use a timeout of more than 0 seconds")
        if not any(_MODEL in word for word in self.words):
            self.words.append(_MODEL)
        self.spec = spec
        self._known: dict[str, ToolCosts] = {}

    def costs(self, model: bytes) -> ToolCosts:
        """What the command says of a model.

        Raises:
            OptionError: it cannot be started, fails, takes too long, or prints something else.
        """
        digest = hashlib.sha256(model).hexdigest()
        if digest not in self._known:
            with tempfile.TemporaryDirectory(prefix="obs-onnx-") as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(model)
                self._known[digest] = self._asked(path)
        return self._known[digest]

    def _asked(self, path: Path) -> ToolCosts:
        words = [word.replace(_MODEL, str(path)) for word in self.words]
        name = f"the command {words[0]!r} of {named('cost')}"
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout,
                text=True,
                errors="replace",
                check=False,
            )
        except FileNotFoundError as error:
            raise OptionError(f"{name} does not exist: check its path") from error
        except OSError as error:
            raise OptionError(f"{name} cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise OptionError(
                f"{name} did not end within {self.timeout:g} s: give it more with "
                "'command,timeout=SECONDS:...'"
            ) from error
        if done.returncode:
            said = one_line(_last(done.stderr) or _last(done.stdout))[:_SHOWN]
            raise OptionError(
                f"{name} failed with exit code {done.returncode}" + (f": {said}" if said else "")
            )
        return _read(done.stdout, name)


def _last(text: str) -> str:
    """The last line with something in it."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _read(text: str, name: str) -> ToolCosts:
    """Costs in what a command printed."""
    found: object = None
    for part in (text, _last(text)):
        try:
            found = json.loads(part)
        except ValueError:
            continue
        break
    known = list(ToolCosts.__dataclass_fields__)
    if not isinstance(found, Mapping):
        said = one_line(_last(text))[:_SHOWN]
        raise OptionError(
            f"{name} printed {said!r} and no JSON object: let it print some of {', '.join(known)}, "
            'for example {"latency_ms": 1.5}'
        )
    costs = {key: found[key] for key in known if found.get(key) is not None}
    if not costs:
        raise OptionError(f"{name} printed JSON without any of {', '.join(known)}: let it print at least one")
    for key, value in costs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise OptionError(f"{name} printed {key} {value!r}: let it print a number above 0")
    return ToolCosts(**costs)


@dataclass(frozen=True)
class _Session:
    """A model that runs here, and of which a tool tells the latency."""

    inner: Session
    tool: Tool
    model: bytes

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.inner.outputs

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        return self.inner.run(feed, outputs)

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        latency = self.tool.costs(self.model).latency_ms
        if latency is None:
            raise OptionError(
                f"the command of {named('cost')} prints no latency_ms: let it, or leave out target latency"
            )
        return [latency / 1e3] * runs


class ToolRuntime:
    """A runtime for which a tool tells latencies; see :class:`obs_onnx.runtimes.base.Runtime`.

    Args:
        inner: where models run.
        tool: tells the seconds.
    """

    in_process = False
    maps = False
    affinity = None

    def __init__(self, inner: Runtime, tool: Tool) -> None:
        self.inner, self.tool = inner, tool
        self.spec, self.threads = tool.spec, inner.threads

    @property
    def quantum(self) -> int:
        """Of the runtime here."""
        return self.inner.quantum

    def session(self, model: ModelSource, external_data: str | os.PathLike[str] | None = None) -> Session:
        """A model that runs here; a file without its external data is what the tool sees."""
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        return _Session(self.inner.session(model, external_data), self.tool, content)

    def environment(self) -> dict[str, Any]:
        """The command, and where models run."""
        return {**self.inner.environment(), "cost": self.tool.spec}

    def machine(self) -> dict[str, Any]:
        """This machine, on which the command runs; how busy it is changes nothing of what that says."""
        return {**self.inner.machine(), "load_average": None}
