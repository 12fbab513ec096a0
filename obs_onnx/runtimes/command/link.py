"""Requests to a worker that a command starts, and what is said when it dies, hangs or talks nonsense.

:mod:`.worker` describes the protocol. After a failure the worker is ended, and started when next needed.
"""

from __future__ import annotations

import base64
import functools
import itertools
import re
import shlex
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from obs_onnx.passes.errors import DataError, InputError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes.command.bundle import bundle
from obs_onnx.runtimes.command.pipe import Child, Ended
from obs_onnx.runtimes.command.worker import frames

__all__ = ["Link"]

_NOISE_BYTES = 2**16
_TOO_OLD = re.compile(r"IR version|till opset|opset versions", re.IGNORECASE)
_PYTHON = ("-u", "-i", "-q")  # runs each line of its input at once, and leaves the rest of it unread

Header = Mapping[str, Any]
Chunks = Callable[[], Iterable[bytes]]


class Link:
    """A worker, started when needed.

    Args:
        prefix: the command, split as a shell does, though no shell sees it.
        timeout: seconds for its start.

    Attributes:
        lock: held while several requests belong together.
        unused: (start of the worker, handle) of models to be unloaded before the next request.

    Raises:
        OptionError: the command cannot be split.
    """

    def __init__(self, prefix: str, timeout: float) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self.lock = threading.RLock()
        self.unused: deque[tuple[int, int]] = deque()
        self.hello: dict[str, Any] = {}
        self._command = _command(prefix)
        self._child: Child | None = None
        self._starts = 0
        self._ids = itertools.count(1)

    def start(self) -> int:
        """Start the worker unless it runs; which start this is, from 1.

        Raises:
            OptionError, ModelError: it cannot be started, or its start ended or took too long.
            MissingRuntimeError: it has no onnxruntime.
        """
        with self.lock:
            if self._child is not None and not self._child.alive:
                self.end()
            if self._child is None:
                self._child = Child(self._command)
                self._starts += 1
                try:
                    self._greet(self._child)
                except BaseException:
                    self.end()
                    raise
            return self._starts

    def request(
        self, op: str, header: Header, size: int, chunks: Chunks, limit: float, name: str
    ) -> tuple[dict[str, Any], bytearray]:
        """One request and its answer, header and payload.

        Args:
            op, header: of the request.
            size: of its payload.
            chunks: gives the payload in parts.
            limit: seconds for all of it.
            name: of the model, for messages.

        Raises:
            DataError, ModelError, MissingRuntimeError, OptionError: the worker refuses; or ModelError: it
                died, did not answer in time or sent something else, and was ended.
        """
        with self.lock:
            while self.unused and self._child is not None:
                start, handle = self.unused.popleft()
                if start == self._starts:
                    self._exchange("unload", {"handle": handle}, 0, tuple, self.timeout, name)
            answer, payload = self._exchange(op, header, size, chunks, limit, name)
        if answer.get("ok") is not True:
            raise self._refusal(answer, name)
        return answer, payload

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """Within it, an answer that lacks what it should have ends the worker and is a ModelError."""
        try:
            yield
        except (frames.ProtocolError, KeyError, TypeError, ValueError, OverflowError) as error:
            self.end()
            raise ModelError(
                self._message("broke the protocol", f"{type(error).__name__}: {error}")
            ) from error

    def close(self) -> None:
        """Let the worker end by itself for a moment, then end it."""
        with self.lock:
            if self._child is not None:
                self._child.close()
            self._child = None

    def end(self) -> None:
        """End the worker at once."""
        if self._child is not None:
            self._child.kill()
        self._child = None

    def _greet(self, child: Child) -> None:
        deadline = time.monotonic() + self.timeout
        noise = bytearray()
        try:
            if not _installed(self._command):
                child.write([_bootstrap()], deadline)
            while not noise.endswith(frames.GREETING):
                if len(noise) > _NOISE_BYTES:
                    raise OptionError(self._message("starts no worker: it sends", repr(bytes(noise[:80]))))
                noise += child.read(1, deadline)
        except TimeoutError as error:
            what = f"did not start a worker within {self.timeout:g} s"
            raise OptionError(self._message(what, _words(child, noise))) from error
        except Ended as error:
            what = f"ended with {child.status()} before it started a worker"
            raise OptionError(self._message(what, _words(child, noise))) from error
        hello, _ = self.request("hello", {}, 0, tuple, self.timeout, "the worker")
        if hello.get("protocol") != frames.PROTOCOL:
            raise OptionError(self._message("has a worker of another protocol: replace its worker.py"))
        self.hello = hello

    def _exchange(
        self, op: str, header: Header, size: int, chunks: Chunks, limit: float, name: str
    ) -> tuple[dict[str, Any], bytearray]:
        child, number = self._child, next(self._ids)
        if child is None:
            raise ModelError(self._message(f"has no worker for {name}"))
        deadline = time.monotonic() + limit
        try:
            frame = frames.encode({"id": number, "op": op, **header}, size)
            child.write(itertools.chain([frame], chunks()), deadline)
            answer, length = frames.decode(lambda count: child.read(count, deadline))
            payload = frames.exactly(lambda count: child.read(count, deadline), length)
            if answer.get("id") != number:
                raise frames.ProtocolError(f"the answer to {answer.get('id')!r} instead of {number}")
        except TimeoutError as error:
            what = f"did not answer {op!r} for {name} within {limit:.3g} s; timeout=SECONDS raises that"
            found = self._message(what, child.last_words())
            self.end()
            raise ModelError(found) from error
        except Ended as error:
            status = child.status()
            found = self._message(f"ended with {status} during {op!r} for {name}", child.last_words())
            self.end()
            raise ModelError(found) from error
        except frames.ProtocolError as error:
            self.end()
            raise ModelError(
                self._message(f"broke the protocol during {op!r} for {name}", str(error))
            ) from error
        except BaseException:  # an interrupt too: what comes next would be the answer to this
            self.end()
            raise
        return answer, payload

    def _refusal(self, answer: Header, name: str) -> InputError:
        kind, reason = answer.get("kind"), " ".join(str(answer.get("error")).split())
        if kind == "missing":
            return MissingRuntimeError(self._message("cannot be used", f"{reason}; install it there"))
        if kind == "data":
            return DataError(self._message(f"cannot run {name}", reason))
        if kind == "request":
            return OptionError(self._message("refuses", reason))
        if _TOO_OLD.search(reason):
            old = f"onnxruntime {self.hello.get('version')} there is too old for the model"
            reason += f"; {old}: update it, or export the model with an older opset and IR version"
        return ModelError(self._message(f"cannot use {name}", reason))

    def _message(self, what: str, why: str = "") -> str:
        text = f"the command {self.prefix!r} {what}" + (f": {why}" if why else "")
        return "".join(one if one.isprintable() else " " for one in text)  # no codes for the terminal


def _command(prefix: str) -> list[str]:
    try:
        words = shlex.split(prefix)
    except ValueError as error:
        raise OptionError(f"the command {prefix!r} cannot be split: {error}") from error
    if not words:
        raise OptionError("the runtime command has no command: write for example 'command:ssh board python3'")
    return words if _installed(words) else [*words, *_PYTHON]


def _installed(words: list[str]) -> bool:
    """Whether the command starts a worker that is there already."""
    return words[-1].endswith(".py")


def _words(child: Child, noise: bytearray) -> str:
    return child.last_words() or " ".join(noise.decode(errors="replace").split())[:200]


@functools.cache
def _bootstrap() -> bytes:
    """One line that makes an interactive Python the worker."""
    source = base64.b64encode(zlib.compress(bundle().encode(), 9)).decode()
    code = (
        "import base64, os, sys, traceback, zlib\n"
        "try:\n"
        f"  exec(compile(zlib.decompress(base64.b64decode('{source}')), 'worker.py', 'exec'))\n"
        "except BaseException:\n"
        "  sys.stderr.write('\\n' + traceback.format_exc())\n"
        "  sys.stderr.flush()\n"
        "  os._exit(1)\n"
    )
    return f"exec({code!r})\n".encode()
