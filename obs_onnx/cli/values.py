"""Values of options that click does not know: ``KEY=NUMBER``, sizes in bytes, files to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from obs_onnx.allocation.amounts import parse_bytes
from obs_onnx.io.atomic_files import check_writable
from obs_onnx.passes.errors import OptionError, boundary

__all__ = ["KeyValue", "Size", "WrittenFile", "beside"]

if TYPE_CHECKING:
    _Value = click.ParamType[Any]
else:
    _Value = click.ParamType  # not generic in every release


def beside(model: str, place: Callable[[Path], Path]) -> str | None:
    """Where the result of a model in a file goes by default; None where there is no such file."""
    return str(place(Path(model))) if os.path.isfile(model) else None


class KeyValue(_Value):
    """A name and a number: ``("fc*", 0.5)`` of ``fc*=0.5``.

    Attributes:
        pairs: values are pairs, which a mapping gives as well.
    """

    pairs = True

    def __init__(self, form: str) -> None:
        self.name = form

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at the last equals sign."""
        if not isinstance(value, str):
            return value
        key, sign, number = value.rpartition("=")
        try:
            found = float(number)
        except ValueError:
            sign = ""
        return (key, found) if sign else self.fail(f"{value!r} is not {self.name}", param, ctx)


class Size(_Value):
    """Bytes of ``500KB``, ``2GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read number and unit."""
        try:
            return parse_bytes(value) if isinstance(value, str) else value
        except OptionError as error:
            self.fail(str(error), param, ctx)


class WrittenFile(_Value):
    """A file that can be written, which is checked before anything costly starts."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it is."""
        try:
            with boundary(f"cannot write {value}", OptionError):
                check_writable(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return value
