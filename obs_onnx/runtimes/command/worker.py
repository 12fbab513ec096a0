"""The far side of the ``command:`` runtime, in one file: Python 3.8, numpy and onnxruntime 1.15 suffice.

It answers requests on its standard input, one after the other, on its standard output; whatever else prints
there goes to standard error. It first says ``GREETING``. Then both sides send frames, all numbers big-endian:

    4 bytes  "OBSF"
    4 bytes  H, length of the header
    8 bytes  P, length of the payload
    H bytes  header, a JSON object in UTF-8
    P bytes  payload

A request's header has ``id`` and ``op``. The answer repeats the ``id`` and has ``ok``; if that is false,
``kind`` (model, data, missing, request or internal) and ``error``, one line. The requests:

    hello                                     -> protocol, runtime, version, providers, python, cpu, cores ...
    load    files, threads, provider,         -> handle, threads, inputs, outputs
            options, custom_ops; payload: the files, the model first, external data after it
    run     handle, outputs, arrays; payload  -> arrays; payload
    time    handle, runs, arrays; payload     -> seconds, affinity; without arrays on those of the last time
    unload  handle                            ->

``arrays`` lists name, type, shape and bytes of each array, whose raw little-endian values are the payload,
one after the other; bfloat16 is its 16 bits; strings are all their lengths as uint32, then their UTF-8.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import platform
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

PROTOCOL = 1
GREETING = b"\0obs-onnx worker %d\n" % PROTOCOL
HEADER_LIMIT = 2**24
PAYLOAD_LIMIT = 2**36
_MAGIC = b"OBSF"
_PREFIX = struct.Struct(">4sIQ")
_CHUNK = 2**20
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_FATAL_ONLY = 4
_LONGEST = 400  # characters of a message
TYPES = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "bfloat16": "<u2",
    "bool": "|b1",
    **{f"{sign}int{8 * size}": f"<{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)},
}

if TYPE_CHECKING:
    Read = Callable[[int], bytes]
    Typed = Sequence[tuple[str, str, Any]]  # name, type, array (bfloat16 as its bits)


class ProtocolError(Exception):
    """What came is no frame, or contradicts itself."""


class Refusal(Exception):  # noqa: N818
    """A request that cannot be answered: what kind of reason, and one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# frames


def encode(header: Mapping[str, Any], size: int) -> bytes:
    """A frame up to its payload of ``size`` bytes."""
    text = json.dumps(header).encode()
    if len(text) > HEADER_LIMIT or size > PAYLOAD_LIMIT:
        raise ProtocolError(f"a header of {len(text)} and a payload of {size} bytes are too large to send")
    return _PREFIX.pack(_MAGIC, len(text), size) + text


def decode(read: Read) -> tuple[dict[str, Any], int]:
    """Header of the next frame and the size of its payload, which stays to be read.

    Raises:
        ProtocolError: it is no frame, or larger than the limits.
        EOFError: the stream ended inside.
    """
    magic, length, size = _PREFIX.unpack(exactly(read, _PREFIX.size))
    if magic != _MAGIC:
        raise ProtocolError(f"no frame but {magic!r}")
    if length > HEADER_LIMIT or size > PAYLOAD_LIMIT:
        raise ProtocolError(f"a frame claims a header of {length} and a payload of {size} bytes")
    try:
        header = json.loads(exactly(read, length).decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("a header is no JSON object")
    return header, size


def exactly(read: Read, size: int) -> bytearray:
    """``size`` bytes; memory grows with what arrives, not with what was claimed."""
    data = bytearray()
    while len(data) < size:
        chunk = read(min(size - len(data), _CHUNK))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def pack(arrays: Typed) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Entries for a header and the payload in parts."""
    entries, parts = [], []
    for name, kind, array in arrays:
        part = _string_bytes(array) if kind == "string" else array.astype(TYPES[kind], copy=False).tobytes()
        entries.append({"name": name, "type": kind, "shape": list(array.shape), "bytes": len(part)})
        parts.append(part)
    return entries, parts


def unpack(entries: Any, payload: bytes | bytearray) -> list[tuple[str, str, Any]]:
    """The inverse of :func:`pack`.

    Raises:
        ProtocolError: sizes, types or the payload do not fit together.
    """
    found, view, start = [], memoryview(payload), 0
    if not isinstance(entries, list):
        raise ProtocolError("arrays are no list")
    for entry in entries:
        name, kind, shape, size = _entry(entry)
        part = view[start : start + size]
        if len(part) != size:
            raise ProtocolError(f"array {name!r} of {size} bytes is longer than the payload")
        if kind == "string":
            array = _strings(part, shape)
        elif math.prod(shape) * np.dtype(TYPES[kind]).itemsize != size:
            raise ProtocolError(f"array {name!r} of shape {shape} does not have {size} bytes")
        else:
            array = np.array(np.frombuffer(part, TYPES[kind]).reshape(shape))  # aligned
        found.append((name, kind, array))
        start += size
    if start != len(view):
        raise ProtocolError(f"{len(view) - start} bytes follow the last array")
    return found


def _entry(entry: Any) -> tuple[str, str, tuple[int, ...], int]:
    entry = entry if isinstance(entry, dict) else {}
    name, kind, shape, size = (entry.get(key) for key in ("name", "type", "shape", "bytes"))
    numbers: list[Any] = [size, *shape] if isinstance(shape, list) else [None]
    sound = all(type(number) is int and 0 <= number <= PAYLOAD_LIMIT for number in numbers)
    if not sound or not isinstance(name, str) or kind not in ["string", *TYPES]:
        raise ProtocolError(f"{json.dumps(entry)[:200]} describes no array")
    return name, str(kind), tuple(map(int, numbers[1:])), int(numbers[0])


def _string_bytes(array: Any) -> bytes:
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1).tolist()]
    return np.array([len(text) for text in texts], "<u4").tobytes() + b"".join(texts)


def _strings(part: memoryview, shape: tuple[int, ...]) -> Any:
    count = math.prod(shape)
    if 4 * count > len(part):
        raise ProtocolError("strings are longer than their bytes")
    ends = 4 * count + np.cumsum(np.frombuffer(part[: 4 * count], "<u4"), dtype=np.int64)
    if (int(ends[-1]) if count else 0) != len(part):
        raise ProtocolError("strings do not fill their bytes")
    starts = np.concatenate([[4 * count], ends[:-1]]).tolist()
    try:
        texts = [bytes(part[start:end]).decode() for start, end in zip(starts, ends.tolist())]  # noqa: B905
    except UnicodeDecodeError as error:
        raise ProtocolError("strings are no UTF-8") from error
    array = np.empty(count, object)
    array[:] = texts
    return array.reshape(shape)


# onnxruntime


def session_options(ort: Any, threads: int, options: Mapping[str, str]) -> Any:
    """``SessionOptions`` with one operator at a time and ``options`` as texts; see docs/runtimes.md."""
    found = ort.SessionOptions()
    found.intra_op_num_threads = threads
    found.inter_op_num_threads = 1
    found.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC"}
    level = options.get("optimize", "all")
    name = "ORT_DISABLE_ALL" if level == "off" else f"ORT_ENABLE_{levels[level]}"
    found.graph_optimization_level = getattr(ort.GraphOptimizationLevel, name)
    found.enable_cpu_mem_arena = options.get("arena") != "off"
    found.enable_mem_pattern = options.get("pattern") != "off"
    found.log_severity_level = _FATAL_ONLY
    found.use_deterministic_compute = True
    if options.get("spinning") == "off":
        found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return found


def first_line(error: BaseException) -> str:
    """First line of onnxruntime's message without its prefix of codes, cut where it is long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0]).strip()[:_LONGEST]


def ort_value(ort: Any, array: Any, *, bfloat16: bool) -> Any:
    """onnxruntime's own value of an array; bfloat16 comes as its bits."""
    make = ort.OrtValue
    if bfloat16:
        return make.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
    return make.ortvalue_from_numpy(np.ascontiguousarray(array))


def bound(session: Any, values: Mapping[str, Any]) -> Any:
    """Inputs and outputs bound once: a run then costs next to nothing beside the model's own work.

    Values are tried first, in the way whose errors say what does not fit.
    """
    names = [one.name for one in session.get_outputs()]
    session.run_with_ort_values(names, values)
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name)
    return binding


def bfloat16_bits(value: Any) -> Any:
    """Copy of the bits of a bfloat16 value, which goes by its address; None for another type."""
    if not value.is_tensor() or value.element_type() != _BFLOAT16:
        return None
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, np.uint16).copy().reshape(shape)


def plain(value: Any) -> Any:
    """A tensor as it is; of a sequence or a map all numbers in a row, by key; of an absent optional none."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list) and value:
        return np.concatenate([plain(part).reshape(-1) for part in value])
    return np.asarray([] if value is None else value, np.float32 if not value else None)


class _Model:
    """A loaded model and the feed of its last timing."""

    def __init__(self, session: Any, ort: Any, threads: int) -> None:
        self.session = session
        self.ort = ort
        self.threads = threads
        self.timed: Typed = ()

    def specs(self) -> dict[str, Any]:
        return {
            role: [{"name": one.name, "type": one.type, "shape": one.shape} for one in values]
            for role, values in (
                ("inputs", self.session.get_inputs()),
                ("outputs", self.session.get_outputs()),
            )
        }

    def run(self, feed: Typed, names: Sequence[str]) -> list[tuple[str, str, Any]]:
        outputs = {one.name: one.type for one in self.session.get_outputs()}
        names = list(names)
        exotic = any(kind == "bfloat16" for _, kind, _ in feed) or any(
            outputs.get(name) == "tensor(bfloat16)" for name in names
        )
        if not exotic:
            arrays = self.session.run(names, {name: array for name, _, array in feed})
            return [_typed(name, plain(array)) for name, array in zip(names, arrays)]  # noqa: B905
        values = self.session.run_with_ort_values(names, self._values(feed))
        found = []
        for name, value in zip(names, values):  # noqa: B905
            bits = bfloat16_bits(value)
            found.append(_typed(name, value.numpy()) if bits is None else (name, "bfloat16", bits))
        return found

    def time(self, feed: Typed, runs: int) -> list[float]:
        names = [one.name for one in self.session.get_outputs()]
        if any(kind == "string" for _, kind, _ in feed):
            run, given = self.session.run, [names, {name: array for name, _, array in feed}]
        else:
            run, given = self.session.run_with_iobinding, [bound(self.session, self._values(feed))]
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            run(*given)
            seconds.append(time.perf_counter() - start)
        return seconds

    def _values(self, feed: Typed) -> dict[str, Any]:
        try:
            return {
                name: ort_value(self.ort, array, bfloat16=kind == "bfloat16") for name, kind, array in feed
            }
        except AttributeError as error:
            raise Refusal("model", f"onnxruntime {self.ort.__version__} is too old for bfloat16") from error


def _typed(name: str, array: Any) -> tuple[str, str, Any]:
    kind = "string" if array.dtype.kind in "OUS" else array.dtype.name
    if kind != "string" and kind not in TYPES:
        raise Refusal("model", f"output {name!r} is {kind}, which cannot be sent")
    return name, kind, array


# the machine


def describe() -> dict[str, Any]:
    """CPU, frequency, governor, load and system; None for what cannot be read."""
    cpu = "/sys/devices/system/cpu/cpu0/cpufreq/"
    frequency = _text(cpu + "scaling_cur_freq")
    names = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _text("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "cpu": names[1].strip() if names else platform.processor() or platform.machine() or None,
        "cores": len(_physical(range(os.cpu_count() or 1))),
        "logical_cores": os.cpu_count(),
        "frequency_mhz": round(int(frequency) / 1000) if frequency and frequency.isdigit() else None,
        "governor": _text(cpu + "scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Physical cores that this process may use."""
    return max(1, len(_physical(_allowed() or range(os.cpu_count() or 1))))


@contextlib.contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep all threads of this process on ``cores`` meanwhile."""
    if cores is None:
        yield
        return
    before = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(OSError):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
    try:
        yield
    finally:
        for thread, allowed in before.items():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, allowed)


def choose(count: int) -> list[int] | None:
    """``count`` of the cores of this process, physical ones and idle ones first; None if that cannot be."""
    allowed = _allowed()
    if allowed is None or len(allowed) < count or not os.path.isdir("/proc/self/task"):
        return None
    before = _busy()
    time.sleep(0.1)
    busy = {core: ticks - before.get(core, 0) for core, ticks in _busy().items()}
    ranked = sorted(allowed, key=lambda core: (busy.get(core, 0), core))
    first = _physical(ranked)
    return sorted((first + [core for core in ranked if core not in first])[:count])


def _allowed() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _physical(cores: Sequence[int]) -> list[int]:
    """The first of ``cores`` on each physical core."""
    found: dict[Any, int] = {}
    for core in cores:
        siblings = _text(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        found.setdefault(siblings or core, core)
    return list(found.values())


def _busy() -> dict[int, int]:
    lines = re.findall(r"^cpu(\d+) (.+)$", _text("/proc/stat") or "", re.MULTILINE)
    return {int(core): sum(map(int, ticks.split()[:3])) for core, ticks in lines}


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


# requests


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
            if not self.read(_CHUNK):
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
        self._models: dict[int, _Model] = {}
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
        self._models[handle] = _Model(session, ort, threads)
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

    def _model(self, header: Any) -> _Model:
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
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
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
            chunk = payload.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError
            file.write(chunk)
            size -= len(chunk)


def _after(first: bytes, read: Read) -> Read:
    """``read`` with ``first`` before it."""
    waiting = [first]
    return lambda size: waiting.pop() if waiting else read(size)


def main() -> None:
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
            view = view[os.write(sink, view[:_CHUNK]) :]

    try:
        write(GREETING)
        Worker(lambda size: os.read(source, size), write).serve()
    except (ProtocolError, EOFError, OSError) as error:
        sys.stderr.write(f"obs-onnx worker: {error or 'the requests end inside of a frame'}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # whether or not the interpreter is interactive


if __name__ == "__main__":
    main()
