"""Functions that the user names as ``module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obs_onnx.passes.errors import DataError
from obs_onnx.passes.printable import one_line

__all__ = ["load_function"]


def load_function(name: str) -> Callable[..., Any]:
    """The function behind ``package.module:function`` or ``path/to/file.py:function``.

    Modules are looked up like ``python -m`` does it: in the current folder first.

    Raises:
        DataError: no such module or function, or the module fails on import.
    """
    module_name, _, attribute = name.rpartition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        if module_name.endswith(".py"):
            module = _load_file(Path(module_name))
        else:
            module = importlib.import_module(module_name)
        function: Any = module
        for part in attribute.split("."):
            function = getattr(function, part)
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


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
