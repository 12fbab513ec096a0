"""Requests on standard input, answers on standard output."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import pack, unpack
from .cores import choose, describe, pinned, usable_cores
from .frames import CHUNK, GREETING, PROTOCOL, ProtocolError, decode, encode, exactly
from .models import ERROR_ONLY, LoadedModel, Refusal, first_line, session_options

if TYPE_CHECKING:
    from .frames import Read


class _Payload:
    """What is still to be read of a frame."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self.left = size

    def read(self, size: int) -> bytes:
        chunk = self._read(min(size, self.left))
        self.left -= len(chunk)
        return chunk

    def all(self) -> bytearray:
        return exactly(self.read, self.left)

    def drain(self) -> None:
        while self.left:
            if not self.read(CHUNK):
                raise EOFError


class Worker:
    """Answers requests until the stream of requests ends.

    Args:
        read: up to so many bytes of the requests; none at their end.
        write: sends bytes, all of them.
    """

    def __init__(self, read: Read, write: Callable[[bytes], None]) -> None:
        self._read = read
        self._write = write
        self._models: dict[int, LoadedModel] = {}
        self._last = 0
        self._cores: dict[int, list[int] | None] = {}

    def serve(self) -> None:
        """Answer all requests.

        Raises:
            ProtocolError: what came is no request.
            EOFError: the stream ended inside of one.
        """
        operations = {name: getattr(self, f"_{name}") for name in ("hello", "load", "run", "time", "unload")}
        while True:
            first = self._read(1)
            if not first:
                return
            header, size = decode(_after(first, self._read))
            payload = _Payload(self._read, size)
            answer: dict[str, Any] = {}
            parts: list[bytes] = []
            try:
                operation = operations.get(str(header.get("op")))
                if operation is None:
                    raise Refusal("request", f"unknown request {header.get('op')!r}")
                answer, parts = operation(header, payload)
                answer["ok"] = True
            except (EOFError, ProtocolError):
                raise
            except Refusal as error:
                answer = {"ok": False, "kind": error.kind, "error": first_line(error)}
            except Exception as error:
                answer = {"ok": False, "kind": "internal", "error": f"{type(error).__name__}: {error}"}
            payload.drain()
            self._write(encode({**answer, "id": header.get("id")}, sum(map(len, parts))))
            for part in parts:
                self._write(part)

    def _hello(self, header: Any, payload: _Payload) -> tuple[dict[str, Any], list[bytes]]:
        ort = _onnxruntime()
        return {
            "protocol": PROTOCOL,
            "runtime": "onnxruntime",
            "version": str(ort.__version__),
            "providers": ort.get_available_providers(),
            "usable_cores": usable_cores(),
            "numpy": np.__version__,
            **describe(),
        }, []

    def _load(self, header: Any, payload: _Payload) -> tuple[dict[str, Any], list[bytes]]:
        ort = _onnxruntime()
        threads = _number(header, "threads")
        try:
            options = session_options(ort, threads, header.get("options") or {})
            for library in header.get("custom_ops") or ():
                options.register_custom_ops_library(library)
        except Exception as error:
            raise Refusal("request", f"no such options or custom operators: {first_line(error)}") from error
        provider = str(header.get("provider"))
        session = self._session(ort, _files(header, payload), payload, options, provider)
        if provider not in session.get_providers():
            raise Refusal("request", f"{provider} did not start: check its driver and libraries")
        self._last += 1
        handle = self._last
        self._models[handle] = LoadedModel(session, ort, threads)
        return {"handle": handle, **self._models[handle].specs()}, []

    def _session(
        self, ort: Any, files: Sequence[tuple[str, int]], payload: _Payload, options: Any, provider: str
    ) -> Any:
        providers = [provider, *(["CPUExecutionProvider"] if provider != "CPUExecutionProvider" else [])]
        folder = None
        try:
            if len(files) == 1:
                model: Any = bytes(payload.all())
            else:
                folder = tempfile.mkdtemp(prefix="obs-onnx-")
                for name, size in files:
                    _store(payload, os.path.join(folder, name), size)
                model = os.path.join(folder, files[0][0])
            try:
                return ort.InferenceSession(model, options, providers=providers)
            except Exception as error:
                raise Refusal("model", first_line(error)) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _run(self, header: Any, payload: _Payload) -> tuple[dict[str, Any], list[bytes]]:
        model = self._model(header)
        feed = unpack(header.get("arrays"), payload.all())
        names = header.get("outputs")
        if names is None:
            names = [one.name for one in model.session.get_outputs()]
        entries, parts = pack(_guarded(lambda: model.run(feed, names)))
        return {"arrays": entries}, parts

    def _time(self, header: Any, payload: _Payload) -> tuple[dict[str, Any], list[bytes]]:
        model = self._model(header)
        runs = _number(header, "runs")
        if header.get("arrays") is not None:
            model.timed = unpack(header["arrays"], payload.all())
        if model.threads not in self._cores:
            self._cores[model.threads] = choose(model.threads)
        cores = self._cores[model.threads]
        with pinned(cores):
            seconds = _guarded(lambda: model.time(model.timed, runs))
        return {"seconds": seconds, "affinity": cores}, []

    def _unload(self, header: Any, payload: _Payload) -> tuple[dict[str, Any], list[bytes]]:
        self._models.pop(header.get("handle"), None)
        return {}, []

    def _model(self, header: Any) -> LoadedModel:
        model = self._models.get(header.get("handle"))
        if model is None:
            raise Refusal("request", f"no model {header.get('handle')!r} is loaded")
        return model


def _guarded(action: Callable[[], Any]) -> Any:
    """The result of running a model, its errors as refusals."""
    try:
        return action()
    except Refusal:
        raise
    except Exception as error:
        bad_feed = "INVALID_ARGUMENT" in str(error) or isinstance(error, ValueError)
        raise Refusal("data" if bad_feed else "model", first_line(error)) from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise Refusal("missing", f"onnxruntime cannot be imported: {error}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise Refusal("missing", "the onnxruntime installation is broken (two flavours in one environment?)")
    onnxruntime.set_default_logger_severity(ERROR_ONLY)
    return onnxruntime


def _number(header: Any, key: str) -> int:
    number = header.get(key)
    if type(number) is not int or not 1 <= number <= 10**6:
        raise Refusal("request", f"{key}={number!r} is no number from 1")
    return number


def _files(header: Any, payload: _Payload) -> list[tuple[str, int]]:
    """Names and sizes, with no name that leaves the folder."""
    found = []
    for entry in header.get("files") or ():
        name, size = entry.get("name"), entry.get("bytes")
        if not isinstance(name, str) or type(size) is not int or size < 0 or not is_inside(name):
            raise Refusal("request", f"no file can be {json.dumps(entry)[:200]}")
        found.append((name, size))
    if not found or sum(size for _, size in found) != payload.left:
        raise Refusal("request", "the files do not fill the payload")
    return found


def is_inside(name: str) -> bool:
    """Whether a file of that name, from a model, lies in the model's own folder."""
    parts = re.split(r"[/\\]", name)
    return bool(name) and ":" not in name and all(part not in ("", "..") for part in parts)


def _store(payload: _Payload, path: str, size: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        while size:
            chunk = payload.read(min(size, CHUNK))
            if not chunk:
                raise EOFError
            file.write(chunk)
            size -= len(chunk)


def _after(first: bytes, read: Read) -> Read:
    """``read`` with ``first`` before it."""
    waiting = [first]
    return lambda size: waiting.pop() if waiting else read(size)


def main(kind: type[Worker] = Worker) -> None:
    """Serve on standard input and output."""
    if os.name == "nt":
        import msvcrt

        for descriptor in (0, 1):
            msvcrt.setmode(descriptor, os.O_BINARY)  # type: ignore[attr-defined,unused-ignore]
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what prints, prints to standard error

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(sink, view[:CHUNK]) :]

    try:
        write(GREETING)
        kind(lambda size: os.read(source, size), write).serve()
    except (ProtocolError, EOFError, OSError) as error:
        sys.stderr.write(f"obs-onnx worker: {error or 'the requests end inside of a frame'}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # whether or not the interpreter is interactive
