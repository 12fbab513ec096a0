"""Latencies that were measured before, kept on disk for each runtime, version, set of options and machine.

A file has one line for each entry, ``[signature, milliseconds, timings]``, and is only ever appended to, in
one write: programs that run at the same time lose nothing of each other's. Lines that cannot be read are
passed over. A file that has grown too long is written anew with its latest entries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from platformdirs import user_cache_path

from obs_onnx.io.atomic_files import together
from obs_onnx.passes.errors import OptionError

__all__ = ["LatencyCache", "cache_folder", "signature"]

_SMALL = 64  # elements of an integer tensor whose values count: they are sizes, axes, indices
_SCHEMA = 2  # of the file, and of how times are taken
_ENTRIES = 50_000  # of one file, about 5 MB

_Known = dict[str, tuple[float, int]]


def cache_folder() -> Path:
    """``OBS_ONNX_CACHE``, or the folder ``obs-onnx`` where the system keeps the user's caches.

    On Linux that is below ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if given := os.environ.get("OBS_ONNX_CACHE"):
        return Path(given)
    try:
        return user_cache_path("obs-onnx", appauthor=False)
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "obs-onnx"


def signature(model: ir.Model, values: Mapping[str, NDArray[Any]]) -> str:
    """The same for models that do the same work: names and weights do not count, sizes and attributes do.

    Args:
        model: that is timed.
        values: its inputs, and as many of its other values as are known: what is inside has a size as well,
            which may follow from a constant.
    """
    names, parts = {"": 0}, list[Any]()

    def number(value: ir.Value | None) -> int:
        """In the order in which nodes name values; what is known about one is told the first time."""
        name = "" if value is None else str(value.name)
        if value is not None and name not in names:
            names[name] = len(names)
            parts.append([names[name], *_described(value, values.get(name))])
        return names[name]

    bodies = False
    for node in model.graph:
        bodies |= any(one.type in _BODIES for one in node.attributes.values())
        attributes = [
            ir.to_proto(one).SerializeToString(deterministic=True).hex()
            for _, one in sorted(node.attributes.items())
        ]
        inputs, outputs = ([number(value) for value in side] for side in (node.inputs, node.outputs))
        parts.append([node.domain, node.op_type, inputs, outputs, attributes])
    parts.append([number(value) for value in model.graph.outputs])
    parts.append(sorted(model.opset_imports.items()))
    if bodies:  # they read outer values by name, some of which no node does
        read = [*model.graph.inputs, *model.graph.initializers.values()]
        for value in sorted(read, key=lambda value: str(value.name)):
            number(value)
        parts.append(sorted(names.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _described(value: ir.Value, array: NDArray[Any] | None) -> list[Any]:
    """Type, size, and the values of small integers that come in or are constant."""
    tensor = value.const_value
    if value.is_initializer() and tensor is not None:
        counts = tensor.size <= _SMALL and (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL)
        return [
            "constant",
            tensor.dtype.name,
            tensor.shape.numpy(),
            _content(tensor.numpy()) if counts else [],
        ]
    if array is None:
        return []
    return [array.dtype.str, array.shape, _content(array) if value.producer() is None else []]


def _content(array: NDArray[Any]) -> list[int]:
    return array.reshape(-1).tolist() if array.dtype.kind in "iub" and array.size <= _SMALL else []


class LatencyCache:
    """Signature -> milliseconds, for one place where models run.

    Args:
        place: what tells this place from others: runtime, version, options, machine.
        folder: of the cache; :func:`cache_folder` by default.
        entries: that the file holds at most.
    """

    def __init__(self, place: Mapping[str, Any], folder: Path | None = None, entries: int = _ENTRIES) -> None:
        text = json.dumps({"schema": _SCHEMA, **place}, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.path = (folder or cache_folder()) / "latency" / f"{name}.jsonl"
        self._place, self._entries = json.loads(text), entries
        self._known, self._new = self._read(), set[str]()

    def get(self, key: str) -> float | None:
        """The shortest time in milliseconds, where one is known."""
        return self._known[key][0] if key in self._known else None

    def timings(self, key: str) -> int:
        """How often it was timed, now and before."""
        return self._known[key][1] if key in self._known else 0

    def put(self, key: str, milliseconds: float) -> None:
        """Remember one more timing; written by :meth:`save`."""
        before, timings = self._known.get(key, (math.inf, 0))
        self._known[key] = min(before, milliseconds), timings + 1
        self._new.add(key)

    def save(self) -> None:
        """Write what is new; a folder that cannot be written is no error."""
        with contextlib.suppress(OSError, OptionError):
            self._append([(key, *self._known[key]) for key in self._known if key in self._new])
            self._new.clear()
            self._tidy()

    def _append(self, entries: Iterable[tuple[str, float, int]]) -> None:
        lines = [json.dumps(entry) for entry in entries]
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            lines.insert(0, json.dumps(self._place))
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, "\n".join(["", *lines, ""]).encode())
        finally:
            os.close(file)

    def _tidy(self) -> None:
        """Write the file anew with its latest entries if there are too many lines."""
        with self.path.open("rb") as file:
            if sum(1 for _ in file) <= 3 * self._entries:
                return
        latest = list(self._read().items())[-self._entries :]
        lines = [json.dumps(self._place), *(json.dumps([key, *found]) for key, found in latest)]
        with together() as files:
            files.new(self.path).write_text("\n".join([*lines, ""]), encoding="utf-8")

    def _read(self) -> _Known:
        """All entries, those written last at the end; several of one signature are taken together."""
        found: _Known = {}
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                key, milliseconds, timings = json.loads(line)
                entry = float(milliseconds), int(timings)
            except (ValueError, TypeError, OverflowError):
                continue
            if isinstance(key, str) and math.isfinite(entry[0]) and min(entry) > 0:
                before = found.pop(key, entry)
                found[key] = min(before[0], entry[0]), max(before[1], entry[1])
        return found
