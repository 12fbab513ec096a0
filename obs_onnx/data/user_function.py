"""Functions that the user names as ``module:function``."""

from __future__ import annotations

import pkgutil
import runpy
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from obs_onnx.passes.errors import DataError

__all__ = ["load_function"]


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
    except Exception as error:
        raise DataError(f"{name}: cannot import it: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise DataError(f"{name}: is no function")
    result: Callable[..., Any] = function
    return result
