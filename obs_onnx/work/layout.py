"""Records as plain values and arrays, and back: what a file without pickle can hold."""

from __future__ import annotations

import dataclasses
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "built", "flat"]

T = TypeVar("T")

Arrays = dict[str, NDArray[Any]]

_PLAIN = (bool, int, float, str)


def flat(value: object, arrays: Arrays) -> object:
    """A value in the types of JSON, with names for the arrays in it.

    Args:
        value: None, numbers, text, arrays, and sequences, sets, mappings and dataclasses of these.
        arrays: gets them, under their names.

    Raises:
        TypeError: something else is in it.
    """
    if value is None or isinstance(value, _PLAIN):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.kind == "V":
            raise TypeError(f"arrays of type {value.dtype} cannot be kept")
        name = str(len(arrays))
        arrays[name] = value
        return name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: flat(getattr(value, field.name), arrays)
            for field in dataclasses.fields(value)
            if field.init
        }
    if isinstance(value, Mapping):
        return [[flat(key, arrays), flat(item, arrays)] for key, item in value.items()]
    if isinstance(value, Set):
        return sorted(flat(item, arrays) for item in value)  # type: ignore[type-var]
    if isinstance(value, Sequence):
        return [flat(item, arrays) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be kept")


def built(kind: type[T], tree: object, arrays: Mapping[str, NDArray[Any]]) -> T:
    """The value of a type that :func:`flat` took apart.

    Raises:
        ValueError: it is of another type.
    """
    try:
        found: T = _built(kind, tree, arrays)
    except (TypeError, KeyError) as error:
        raise ValueError(f"no {kind}") from error
    return found


def _built(kind: Any, tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    origin, of = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(of, tree, arrays)
    if origin is type(None):
        return _checked(tree is None, tree)
    if origin is float and type(tree) is int:
        return float(tree)
    if origin in _PLAIN:
        return _checked(type(tree) is origin, tree)
    if origin is np.ndarray:
        return arrays[_checked(isinstance(tree, str), tree)]
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return _record(origin, tree, arrays)
    make = _COLLECTIONS.get(origin)
    if make is None:
        raise ValueError(f"{kind} cannot be read back")
    items = _checked(isinstance(tree, list), tree)
    if issubclass(origin, Mapping):
        key_of, item_of = of if len(of) > 1 else (of[0], int)  # counts
        return make({_built(key_of, key, arrays): _built(item_of, item, arrays) for key, item in items})
    if origin is tuple and of[-1] is not Ellipsis:
        return tuple(_built(one, item, arrays) for one, item in zip(of, items, strict=True))
    return make([_built(of[0], item, arrays) for item in items])


_COLLECTIONS: Mapping[Any, Callable[[Any], Any]] = {
    dict: dict,
    Mapping: dict,
    Counter: Counter,
    list: list,
    Sequence: list,
    tuple: tuple,
    frozenset: frozenset,
    Set: frozenset,
}


def _record(kind: type, tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    items = _checked(isinstance(tree, dict) and set(tree) == names, tree)
    return kind(**{name: _built(hints[name], item, arrays) for name, item in items.items()})


def _one_of(kinds: Sequence[Any], tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    for kind in kinds:
        try:
            return _built(kind, tree, arrays)
        except ValueError:
            continue
    raise ValueError(f"none of {kinds}")


def _checked(holds: bool, tree: Any) -> Any:
    if not holds:
        raise ValueError(f"unexpected {tree!r:.80}")
    return tree
