"""What users write: functions named as ``module:function``, and what goes wrong in them."""

from __future__ import annotations

import pkgutil
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from obs_onnx.data.feeds import Array
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.printable import one_line

__all__ = ["called", "load_function", "rewound", "told"]


def load_function(name: str) -> Callable[..., Any]:
    """The function behind ``package.module:function`` or ``path/to/file.py:function``.

    Modules are looked up like ``python -m`` does it: in the current folder first.

    Raises:
        DataError: no such module or function, or the module fails on import.
    """
    module, _, attribute = name.rpartition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        if module.endswith(".py"):
            function = attrgetter(attribute)(SimpleNamespace(**runpy.run_path(module)))
        else:
            function = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{name}: cannot import it: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise DataError(f"{name}: is no function")
    result: Callable[..., Any] = function
    return result


def told(items: Iterator[Any], where: str) -> Iterator[Any]:
    """The items of what a user wrote; what it raises is told as a fault of the data."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except DataError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(f"{where}: failed with {type(error).__name__}: {one_line(str(error))}") from error
        yield item


def rewound(reader: Any) -> Iterator[Mapping[str, Array]]:
    """Feeds of a CalibrationDataReader from its start."""
    try:
        reader.rewind()
    except (AttributeError, NotImplementedError) as error:
        raise DataError(
            f"{type(reader).__name__} cannot rewind: give it that method, or pass a function that makes it"
        ) from error
    return iter(reader.get_next, None)


def called(function: Callable[[], Any], where: str) -> Any:
    """What a function of the user returns; what it raises is told as a fault of the data."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise DataError(f"{where}: failed with {type(error).__name__}: {one_line(str(error))}") from error
