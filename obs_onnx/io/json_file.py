"""Results as strict JSON, and the file that holds them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from obs_onnx.io.atomic_files import Together, write_text

__all__ = ["jsonable", "write_json"]


def write_json(path: str | os.PathLike[str], value: object, files: Together | None = None) -> None:
    """Write ``value`` (anything :func:`~obs_onnx.io.json_file.jsonable` takes) as strictly valid JSON.

    Args:
        path: where.
        value: what.
        files: that it appears together with.

    Raises:
        OptionError: the file cannot be written.
    """
    text = json.dumps(jsonable(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, f"{text}\n", files)


def jsonable(value: object) -> object:
    """``value`` in the types of JSON: NaN and infinities become None, arrays lists, dataclasses dicts.

    Raises:
        TypeError: for a type that has no obvious place in JSON.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if callable(tolist := getattr(value, "tolist", None)):
        return jsonable(tolist())
    raise TypeError(f"no place in JSON for {type(value).__name__}")
