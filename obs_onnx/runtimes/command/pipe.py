"""A child process that is talked to over pipes: every wait has an end, and so has the child.

Its standard error is always read, and the last of it kept for messages. Threads read and write, since no
other way of waiting with a limit works on every system.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from obs_onnx.passes.errors import OptionError

__all__ = ["Child", "Ended"]

_CHUNK = 2**20
_KEPT_LINES = 20
_LONGEST_LINE = 2000
_GRACE_SECONDS = 2.0


class Ended(Exception):  # noqa: N818
    """The child closed its side."""


class Child:
    """A running command.

    Args:
        command: program and arguments; no shell sees them.

    Raises:
        OptionError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=os.name == "posix",
            )
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot start {command[0]!r}: {error}") from error
        self._process = process
        self._chunks: queue.Queue[bytes] = queue.Queue(maxsize=16)
        self._lines: deque[bytes] = deque([b""], maxlen=_KEPT_LINES)
        self._rest = memoryview(b"")
        stop = threading.Event()
        self._threads = [
            threading.Thread(target=_collect, args=(process.stdout, self._chunks, stop), daemon=True),
            threading.Thread(target=_keep_last, args=(process.stderr, self._lines), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._writers: list[threading.Thread] = []
        self._finalizer = weakref.finalize(self, _finish, process, self._threads, self._writers, stop)

    def read(self, size: int, deadline: float) -> bytes:
        """At least 1 and up to ``size`` bytes.

        Args:
            size: in bytes.
            deadline: of ``time.monotonic``.

        Raises:
            Ended: it will send no more.
            TimeoutError: the deadline passed.
        """
        if not self._rest:
            try:
                self._rest = memoryview(self._chunks.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty as error:
                raise TimeoutError from error
            if not self._rest:
                self._chunks.put(b"")  # still the end when asked again
                raise Ended
        chunk, self._rest = self._rest[:size], self._rest[size:]
        return bytes(chunk)

    def write(self, parts: Iterable[bytes], deadline: float) -> None:
        """Send all of ``parts``.

        Raises:
            Ended: it will read no more.
            TimeoutError: the deadline passed.
            Exception: whatever ``parts`` raised while it was iterated.
        """
        errors: list[BaseException] = []
        thread = threading.Thread(target=_send, args=(self._process.stdin, parts, errors), daemon=True)
        self._writers[:] = [thread]
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            raise TimeoutError
        if errors and isinstance(errors[0], BrokenPipeError):
            raise Ended from errors[0]
        if errors:
            raise errors[0]

    def last_words(self) -> str:
        """The last line with text on its standard error; after its end the very last one."""
        if self._process.poll() is not None:
            self._threads[1].join(_GRACE_SECONDS)
        lines = (line.decode(errors="replace").removeprefix(">>> ").strip() for line in reversed(self._lines))
        return next((line for line in lines if line), "")[:300]

    def status(self) -> str:
        """How it ended, waiting a moment for it: ``exit status 3`` or ``signal SIGKILL``."""
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "its output closed"
        try:
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        except ValueError:
            return f"signal {-code}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """End it and its group at once, and reap it."""
        _kill(self._process)
        self._finalizer()

    def close(self) -> None:
        """Let it end by itself for a moment, then end it; reap it."""
        self._finalizer()


def _collect(stream: Any, chunks: queue.Queue[bytes], stop: threading.Event) -> None:
    """All of ``stream`` into the queue, then b""."""
    while True:
        try:
            chunk = os.read(stream.fileno(), _CHUNK)
        except (OSError, ValueError):
            chunk = b""
        while not stop.is_set():
            try:
                chunks.put(chunk, timeout=0.2)
                break
            except queue.Full:
                continue
        if not chunk:
            return


def _keep_last(stream: Any, lines: deque[bytes]) -> None:
    """The last lines of ``stream``; the last entry is the one that still grows."""
    while True:
        try:
            chunk = os.read(stream.fileno(), _CHUNK)
        except (OSError, ValueError):
            return
        if not chunk:
            return
        first, *more = chunk.replace(b"\r", b"\n").split(b"\n")
        lines[-1] = (lines[-1] + first)[-_LONGEST_LINE:]
        for line in filter(None, more[:-1]):
            lines.append(line[-_LONGEST_LINE:])
        if more:
            lines.append(more[-1][-_LONGEST_LINE:])


def _send(stream: Any, parts: Iterable[bytes], errors: list[BaseException]) -> None:
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(stream.fileno(), view[:_CHUNK]) :]
    except OSError as error:
        errors.append(error if error.filename else BrokenPipeError(*error.args))
    except BaseException as error:
        errors.append(error)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        return


def _finish(
    process: subprocess.Popen[bytes],
    readers: Sequence[threading.Thread],
    writers: Sequence[threading.Thread],
    stop: threading.Event,
) -> None:
    """Close its input, wait a moment, kill what is left of its group, and reap it."""
    stop.set()
    if any(thread.is_alive() for thread in writers):
        _kill(process)
    groups = (writers, readers[:1], readers[1:])
    for threads, stream in zip(groups, (process.stdin, process.stdout, process.stderr), strict=True):
        for thread in threads:
            thread.join(_GRACE_SECONDS)
        if stream is not None and not any(thread.is_alive() for thread in threads):
            stream.close()
        if stream is process.stdin:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            _kill(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
