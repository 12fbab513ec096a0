"""Reports of runs as their JSON holds them, read back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from obs_onnx.meter import StageCost
from obs_onnx.passes.errors import DataError, boundary
from obs_onnx.results.frontier import Frontier
from obs_onnx.results.pruning import SCHEMA, Report

__all__ = ["SavedBound", "read_frontier", "read_report"]

R = TypeVar("R", bound=Report)

_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True)
class SavedBound:
    """A bound as it was reported, see :class:`obs_onnx.results.pruning.BoundLike`."""

    frobenius: float | None
    spectral: float | None
    blocked_by: tuple[tuple[str, str], ...] = ()


def read_report(path: str | os.PathLike[str], kind: type[R]) -> R:
    """The report that ``prune --json`` wrote.

    Args:
        path: the file.
        kind: of report to make.

    Raises:
        DataError: it cannot be read, is of another kind or of a later release.
    """
    wrong = f"{path} is no report of a run: give the file that prune --json wrote"
    data = _read(path, {"schema", "mode", "before", "after"})
    if data is None:
        raise DataError(wrong)
    with boundary(wrong, DataError):
        return _report(data, kind)


def read_frontier(path: str | os.PathLike[str]) -> Frontier | None:
    """The frontier that ``pareto`` wrote; None where the file holds something else.

    Raises:
        DataError: it cannot be read, or is of a later release.
    """
    data = _read(path, {"schema", "points", "dense", "cost", "by"})
    if data is None:
        return None
    with boundary(f"{path} is no frontier that pareto wrote", DataError):
        found: Frontier = _record(Frontier, data)
        return found


def _read(path: str | os.PathLike[str], names: set[str]) -> Mapping[str, Any] | None:
    """What a file of JSON holds, if it has these names and they are those of this release."""
    with boundary(f"{path} cannot be read", DataError):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, Mapping) or not names <= data.keys():
        return None
    if data["schema"] != SCHEMA:
        raise DataError(
            f"{path} has schema {data['schema']}, this release reads {SCHEMA}: install a later one"
        )
    return data


def _report(data: Mapping[str, Any], kind: type[R]) -> R:
    bound = data.get("bound")
    if bound is not None:
        blockers = tuple((one["node"], one["op_type"]) for one in bound["blocked_by"])
        bound = SavedBound(bound["frobenius"], bound["spectral"], blockers)
    plain = {name: value for name, value in data.items() if name != "bound"}
    found: R = _record(kind, plain)
    return dataclasses.replace(found, bound=bound)


def _record(kind: type[Any], data: Mapping[str, Any]) -> Any:
    """A dataclass from a mapping; what it does not know is passed over."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{kind.__name__} is {type(data).__name__}")
    types_ = get_type_hints(kind, localns={"StageCost": StageCost})
    known = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: _value(types_[name], value) for name, value in data.items() if name in known})


def _value(kind: Any, value: Any) -> Any:
    """A value of a type that reports have; a number that JSON could not hold is none."""
    if get_origin(kind) in _UNIONS:
        return None if value is None else _member(get_args(kind), value)
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _record(kind, value)
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        if rest and rest != [...]:
            return tuple(_value(one, item) for one, item in zip((first, *rest), value, strict=True))
        return tuple(_value(first, item) for item in _checked(value, list))
    if get_origin(kind) is not None and issubclass(get_origin(kind), Mapping):
        return {key: _value(get_args(kind)[1], item) for key, item in _checked(value, dict).items()}
    if get_origin(kind) is not None and issubclass(get_origin(kind), Sequence):
        return tuple(_value(get_args(kind)[0], item) for item in _checked(value, list))
    if kind is float:
        return math.nan if value is None else float(_checked(value, (int, float)))
    return _checked(value, kind) if isinstance(kind, type) else value


def _member(kinds: Sequence[Any], value: Any) -> Any:
    """A value of one of several types."""
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _value(kind, value)
            except (TypeError, ValueError):
                continue
    raise TypeError(f"{type(value).__name__} is none of what it may be")


def _checked(value: Any, kind: Any) -> Any:
    if kind is object or isinstance(value, kind):
        return value
    raise TypeError(f"{type(value).__name__} where {kind} belongs")
