"""Options from a file: those that a report keeps of its run, or a recipe."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from obs_onnx.io.paths import same_file
from obs_onnx.passes.errors import MissingRuntimeError, OptionError, boundary, named

__all__ = ["check_config", "use_config"]

_CONFIG = "obs_onnx.config"  # in what contexts share: the file
_IN_MEMORY = "obs_onnx.in_memory"  # likewise: options whose value was no file
_WRITTEN = ("file", "new model")

_MODEL, _OPTIONS, _TOML = "model", "options", ".toml"


def use_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Callback of ``--config``: what the file says is the default of every option.

    Raises:
        OptionError: the file cannot be read, or has something that is no option of the command.
    """
    if value is None:
        return
    known = {str(one.name): one for one in ctx.command.params if one.name}
    known |= {old: one for one in ctx.command.params for old in getattr(one, "former", ())}
    found, memory = dict[str, object](), list[str]()
    for name, given in _read(value).items():
        key = name.replace("-", "_")
        if key not in known:
            raise OptionError(f"{value}: {name!r} is no option of {ctx.info_name}: leave it out")
        own = str(known[key].name)
        if isinstance(given, str) and given.startswith("<") and given.endswith(">"):
            memory.append(own)  # data of a run in Python
        elif given is not None:
            found[own] = _plain(known[key], given)
    ctx.default_map = {**(ctx.default_map or {}), **found}
    ctx.meta[_CONFIG] = value
    ctx.meta[_IN_MEMORY] = dict.fromkeys(memory, value)


def check_config(ctx: click.Context) -> None:
    """Refuse to write over the file, and to run again what had data that no file holds.

    Raises:
        OptionError: that is so, and the command line has no other.
    """
    read = ctx.meta.get(_CONFIG)
    for param in ctx.command.params if read is not None else ():
        value = ctx.params.get(str(param.name))
        if getattr(param, "form", "") in _WRITTEN and isinstance(value, str) and same_file(value, str(read)):
            raise OptionError(
                f"{value} is read for {named('config')}: choose another {named(str(param.name))}"
            )
    for name, config in ctx.meta.get(_IN_MEMORY, {}).items():
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            raise OptionError(f"{config}: {named(name)} was an object in memory: give a file for it")


def _read(path: str) -> Mapping[str, object]:
    """Options by name, and the model, of a report or a recipe."""
    with boundary(f"{path} cannot be read", OptionError):
        text = Path(path).read_text(encoding="utf-8")
        found = _toml(text) if Path(path).suffix == _TOML else json.loads(text)
    if not isinstance(found, Mapping):
        raise OptionError(f"{path} holds no options: give the JSON of a run, or names and values")
    options = found.get(_OPTIONS)
    if not isinstance(options, Mapping):
        return found
    return {**({_MODEL: found[_MODEL]} if _MODEL in found else {}), **options}


def _toml(text: str) -> object:
    try:
        reader = importlib.import_module("tomllib")
    except ImportError as error:
        raise MissingRuntimeError("TOML is read from Python 3.11 on: write the options as JSON") from error
    return reader.loads(text)


def _plain(param: click.Parameter, given: Any) -> object:
    """A value as the command line would give it; of a repeatable option a list."""
    if not getattr(param, "multiple", False):
        return given
    if isinstance(given, Mapping):
        pairs = [(str(key), one) for key, one in given.items()]
        return pairs if getattr(param.type, "pairs", False) else [f"{key}={one}" for key, one in pairs]
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
