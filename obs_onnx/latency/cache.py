"""Latencies that were measured before, kept on disk for each runtime, version, set of options and machine."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["LatencyCache", "cache_folder", "signature"]

_SMALL = 64  # elements of an integer tensor whose values count: they are sizes, axes, indices
_SCHEMA = 1


def cache_folder() -> Path:
    """``OBS_ONNX_CACHE``, or ``obs-onnx`` in the user's cache folder."""
    if given := os.environ.get("OBS_ONNX_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "obs-onnx"


def signature(model: ir.Model, feed: Mapping[str, NDArray[Any]]) -> str:
    """The same for models that do the same work: names and weights do not count, sizes and attributes do."""
    graph, names = model.graph, {"": ""}

    def anonymous(value: ir.Value | None) -> str:
        return names.setdefault("" if value is None else str(value.name), str(len(names)))

    parts: list[Any] = [sorted(model.opset_imports.items())]
    for value in graph.inputs:
        array = feed[str(value.name)]
        parts.append([anonymous(value), array.dtype.str, array.shape, _content(array)])
    for value in graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        small = tensor.size <= _SMALL and tensor.dtype.is_integer()
        shape = tensor.shape.numpy()
        parts.append([anonymous(value), tensor.dtype.name, shape, _content(tensor.numpy()) if small else []])
    for node in graph:
        attributes = [
            ir.to_proto(one).SerializeToString(deterministic=True).hex()
            for _, one in sorted(node.attributes.items())
        ]
        parts.append([node.domain, node.op_type, list(map(anonymous, node.inputs)), attributes])
        parts.append(list(map(anonymous, node.outputs)))
    parts.append(list(map(anonymous, graph.outputs)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content(array: NDArray[Any]) -> list[int]:
    return array.reshape(-1).tolist() if array.dtype.kind in "iu" and array.size <= _SMALL else []


class LatencyCache:
    """Signature -> milliseconds, for one place where models run.

    Args:
        place: what tells this place from others: runtime, version, options, machine.
        folder: of the cache; :func:`cache_folder` by default.
    """

    def __init__(self, place: Mapping[str, Any], folder: Path | None = None) -> None:
        text = json.dumps({"schema": _SCHEMA, **place}, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = (folder or cache_folder()) / "latency" / f"{name}.json"
        self._place = json.loads(text)
        self._known = self._read()

    def get(self, key: str) -> float | None:
        """Milliseconds, where they are known."""
        return self._known.get(key)

    def put(self, key: str, milliseconds: float) -> None:
        """Remember; written by :meth:`save`."""
        self._known[key] = milliseconds

    def save(self) -> None:
        """Write, together with what others wrote meanwhile; a folder that cannot be written is no error."""
        together = {**self._read(), **self._known}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._path.parent, suffix=".tmp", delete=False
            ) as file:
                json.dump({"place": self._place, "milliseconds": together}, file)
            os.replace(file.name, self._path)
        except OSError:
            return

    def _read(self) -> dict[str, float]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))["milliseconds"]
            return {str(key): float(value) for key, value in stored.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
