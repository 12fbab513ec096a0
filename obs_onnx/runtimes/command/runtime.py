"""onnxruntime behind a command: on a board over ssh, in a container, in another Python.

The command starts a Python, which is sent :mod:`.worker` and answers requests over pipes (:mod:`.link`). A
model whose worker died is loaded again by the next one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.meter import loading, running
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.runtimes.base import ModelSource
from obs_onnx.runtimes.command.link import Link
from obs_onnx.runtimes.command.model_parts import Part, model_parts
from obs_onnx.runtimes.command.worker.arrays import TYPES, pack, unpack
from obs_onnx.runtimes.command.worker.frames import ProtocolError
from obs_onnx.runtimes.onnxruntime import QUANTUM, check_threads, find_provider, tensor_spec
from obs_onnx.runtimes.spec import ORT_OPTIONS, Options, check_options, format_spec

__all__ = ["CommandRuntime", "CommandSession"]

_TIMEOUT = 120.0
_SLOW_LINK = 500_000  # bytes per second
_LASTING = ("cpu", "cores", "logical_cores", "os", "python")
_PASSING = ("frequency_mhz", "governor", "load_average")


class CommandSession:
    """A model that the worker has.

    Args:
        runtime: that loads it.
        parts: of the model, the model itself first.
        name: of the model, for messages.

    Attributes:
        inputs, outputs: see :class:`obs_onnx.runtimes.base.Session`.
    """

    def __init__(self, runtime: CommandRuntime, parts: Sequence[Part], name: str) -> None:
        self._runtime = runtime
        self._link = runtime.link
        self._parts = parts
        self._name = name
        self._start = self._handle = 0
        self._sent = b""
        self._seconds: float | None = None
        with self._link.lock:
            found = self._load()
        self.inputs = tuple(tensor_spec(one, "input") for one in found["inputs"])
        self.outputs = tuple(tensor_spec(one, "output") for one in found["outputs"])

    @running()
    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        """Output name -> array for one complete feed.

        Raises:
            DataError: the feed does not fit the inputs.
            ModelError: the model fails while running, or the worker dies or does not answer in time.
        """
        entries, parts = _packed(feed)
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        header = {"outputs": names, "arrays": entries}
        with self._link.lock:
            self._load()
            answer, payload = self._request("run", header, parts, self._link.timeout)
        with self._link.trusting():
            found = unpack(answer["arrays"], payload)
            if [name for name, _, _ in found] != names:
                raise ProtocolError(f"outputs other than {', '.join(names)}")
        return {name: _array(kind, array) for name, kind, array in found}

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` runs, by the clock over there; an unchanged feed is sent only once.

        Raises:
            DataError, ModelError: as for :meth:`run`.
        """
        entries, parts = _packed(feed)
        digest = hashlib.sha256(repr(entries).encode() + b"".join(parts)).digest()
        limit = self._link.timeout
        limit += runs * (limit if self._seconds is None else 10 * self._seconds)
        with self._link.lock:
            self._load()
            known, self._sent = self._sent == digest, b""
            header = {"runs": runs, "arrays": None if known else entries}
            answer, _ = self._request("time", header, () if known else parts, limit)
            self._sent = digest
        with self._link.trusting():
            seconds = [float(one) for one in answer["seconds"]]
            if len(seconds) != runs:
                raise ProtocolError(f"{len(seconds)} times of {runs} runs")
        self._runtime.affinity = answer.get("affinity")
        self._seconds = max(seconds, default=None)
        return seconds

    def _request(
        self, op: str, header: Mapping[str, Any], parts: Sequence[bytes], limit: float
    ) -> tuple[dict[str, Any], bytearray]:
        size = sum(map(len, parts))
        header = {"handle": self._handle, **header}
        return self._link.request(op, header, size, lambda: parts, limit + size / _SLOW_LINK, self._name)

    def _load(self) -> dict[str, Any]:
        """Send and load the model, unless the worker that runs has it; its inputs and outputs if so."""
        if self._start == self._link.start():
            return {}
        runtime, size = self._runtime, sum(part.size for part in self._parts)
        header = {
            "files": [{"name": part.name, "bytes": part.size} for part in self._parts],
            "threads": runtime.threads,
            "provider": runtime.provider,
            "options": runtime.options,
            "custom_ops": list(runtime.custom_ops),
        }
        limit = 2 * self._link.timeout + size / _SLOW_LINK
        chunks = functools.partial(_chunks, self._parts)
        answer, _ = self._link.request("load", header, size, chunks, limit, self._name)
        with self._link.trusting():
            specs = {role: [_spec(one) for one in answer[role]] for role in ("inputs", "outputs")}
            self._handle = int(answer["handle"])
        self._start, self._sent = self._link.start(), b""
        weakref.finalize(self, self._link.unused.append, (self._start, self._handle)).atexit = False
        return specs


class CommandRuntime:
    """onnxruntime in a Python that a command starts, with one execution provider.

    Args:
        prefix: the command, split as a shell does, though no shell sees it; it ends in a Python, to which
            arguments are added, or in the path of a ``worker.py`` over there.
        threads: of one operator; None for the physical cores that the worker may use.
        custom_ops: paths of libraries with custom operators, over there.
        options: of the session, and ``provider`` and ``timeout`` (seconds); see docs/runtimes.md.
        spinning: changes nothing: ``options`` say how idle threads wait.

    Attributes:
        affinity: the cores that the last timing was kept on, over there; None where that cannot be done.

    Raises:
        OptionError: the command cannot be started or starts no worker, an unknown option or provider, or
            threads below 1.
        MissingRuntimeError: there is no onnxruntime over there.
    """

    in_process = False
    maps = False
    quantum = QUANTUM

    def __init__(
        self,
        prefix: str,
        threads: int | None = None,
        custom_ops: tuple[str, ...] = (),
        *,
        options: Options | None = None,
        spinning: bool = True,
    ) -> None:
        check_threads(threads)
        given = dict(options or {})
        check_options("command", given, {**ORT_OPTIONS, "provider": None, "timeout": None})
        self.spec = f"{format_spec('command', None, given)}:{prefix}"
        self.link = Link(prefix, _seconds(given.pop("timeout", None)))
        provider = given.pop("provider", None)
        self.options = given
        self.custom_ops = custom_ops
        self.affinity: list[int] | None = None
        self.link.start()
        with self.link.trusting():
            available = list(map(str, self.link.hello["providers"]))
            cores = max(1, int(self.link.hello["usable_cores"]))
        self.provider = find_provider(provider, available, "over there")
        self.threads = cores if threads is None else threads

    @loading()
    def session(self, model: ModelSource, external_data: str | PathLike[str] | None = None) -> CommandSession:
        """Send ``model`` and load it; see :meth:`obs_onnx.runtimes.base.Runtime.session`."""
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        return CommandSession(self, model_parts(model, external_data), name)

    def environment(self) -> dict[str, Any]:
        """Name, version and options of the runtime over there, the command, and what lasts of the machine."""
        hello = self.link.hello
        return {
            "runtime": "onnxruntime",
            "version": hello.get("version"),
            "provider": self.provider,
            "threads": self.threads,
            **({"options": self.options} if self.options else {}),
            "command": self.link.prefix,
            **{key: hello.get(key) for key in (*_LASTING, "numpy")},
        }

    def machine(self) -> dict[str, Any]:
        """The machine over there, as it is now."""
        self.link.start()
        hello, _ = self.link.request("hello", {}, 0, tuple, self.link.timeout, "the worker")
        return {key: hello.get(key) for key in (*_LASTING, *_PASSING)}

    def close(self) -> None:
        """End the worker; the next request starts another one."""
        self.link.close()

    def __enter__(self) -> CommandRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _seconds(text: str | None) -> float:
    try:
        seconds = _TIMEOUT if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise OptionError(f"timeout={text} of the runtime command: give seconds, for example timeout=300")
    return seconds


def _chunks(parts: Sequence[Part]) -> Iterator[bytes]:
    for part in parts:
        yield from part.chunks()


def _packed(feed: Mapping[str, NDArray[Any]]) -> tuple[list[dict[str, Any]], list[bytes]]:
    arrays = []
    for name, array in feed.items():
        bfloat16 = array.dtype == ml_dtypes.bfloat16
        kind = "string" if array.dtype.kind in "OUS" else array.dtype.name
        if kind != "string" and kind not in TYPES:
            raise DataError(f"array {name!r} is {array.dtype}: store plain numbers or strings")
        arrays.append((name, kind, array.view(np.uint16) if bfloat16 else array))
    return pack(arrays)


def _array(kind: str, array: Any) -> NDArray[Any]:
    result: NDArray[Any] = array.view(ml_dtypes.bfloat16) if kind == "bfloat16" else array
    return result


def _spec(found: Any) -> SimpleNamespace:
    shape = [size if isinstance(size, (int, str)) else None for size in found["shape"]]
    return SimpleNamespace(name=str(found["name"]), type=str(found["type"]), shape=shape)
