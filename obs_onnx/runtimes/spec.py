"""The SPEC of a runtime: ``KIND[:WHERE][,KEY=VALUE...]``, or ``KIND[,KEY=VALUE...]:PREFIX`` for a command."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from obs_onnx.passes.errors import OptionError

__all__ = ["ORT_OPTIONS", "Options", "check_options", "format_spec", "kind_of", "split_command", "split_spec"]

Options = Mapping[str, str]

_SWITCH = ("on", "off")
ORT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "optimize": ("all", "extended", "basic", "off"),
    "arena": _SWITCH,
    "pattern": _SWITCH,
    "spinning": _SWITCH,
}  # of an onnxruntime session, here or at the end of a command


def kind_of(spec: str) -> str:
    """``onnxruntime`` of ``onnxruntime:cpu,arena=off``."""
    return re.split("[:,]", spec, maxsplit=1)[0]


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """``("cpu", {"arena": "off"})`` of ``onnxruntime:cpu,arena=off``; several devices stay one text.

    Raises:
        OptionError: something after the first option is no ``KEY=VALUE``, or a key is given twice.
    """
    words = spec[len(kind_of(spec)) :].split(",")
    count = next((index for index, word in enumerate(words) if index and "=" in word), len(words))
    return ",".join(words[:count]).removeprefix(":"), _options(words[count:], spec)


def split_command(spec: str) -> tuple[str, dict[str, str]]:
    """``("ssh board python3", {"timeout": "60"})`` of ``command,timeout=60:ssh board python3``.

    Raises:
        OptionError: an option is no ``KEY=VALUE``, a key is given twice, or no command follows.
    """
    head, _, prefix = spec.partition(":")
    if not prefix.strip():
        raise OptionError(f"runtime {spec!r} has no command: write for example 'command:ssh board python3'")
    return prefix.strip(), _options(head.split(",")[1:], spec)


def check_options(kind: str, options: Options, known: Mapping[str, Collection[str] | None]) -> None:
    """Raise OptionError for an unknown key, or a value that is none of its ``known`` ones (None: any)."""
    for key, value in options.items():
        if key not in known:
            raise OptionError(f"the runtime {kind} has no option {key!r}; it has {', '.join(known)}")
        values = known[key]
        if values is not None and value not in values:
            raise OptionError(f"{key}={value} of the runtime {kind}: use {' or '.join(values)}")


def format_spec(kind: str, where: str | None, options: Options) -> str:
    """The text that :func:`split_spec` reads."""
    return kind + (f":{where}" if where else "") + "".join(f",{key}={options[key]}" for key in options)


def _options(words: Collection[str], spec: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = (part.strip() for part in word.partition("="))
        if not (key and sign and value):
            raise OptionError(f"{word!r} in the runtime {spec!r} is not KEY=VALUE")
        if key in found:
            raise OptionError(f"the runtime {spec!r} gives {key!r} twice")
        found[key] = value
    return found
