"""How much a target allows, and how that is written: ``0.5``, ``50%``, ``200KB``, ``4ms``, ``min``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

from obs_onnx.passes.errors import OptionError

__all__ = [
    "Amount",
    "Unit",
    "parse_bytes",
    "positive",
    "share",
    "share_or_bytes",
    "share_or_nothing",
    "share_or_time",
]

_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Unit(Enum):
    """What an amount is counted in."""

    SHARE = "share"  # of what the dense model has; of outputs, of samples
    BYTES = "bytes"
    MILLISECONDS = "milliseconds"
    LEAST = "least"  # no amount: as little as the other targets allow


@dataclass(frozen=True)
class Amount:
    """How much is allowed: a ``value`` in a ``unit``."""

    value: float = 0.0
    unit: Unit = Unit.SHARE

    @property
    def plain(self) -> float | str:
        """As it was asked for, ready for JSON."""
        if self.unit is Unit.LEAST:
            return "min"
        return f"{self.value:g}ms" if self.unit is Unit.MILLISECONDS else self.value


def share(name: str, text: str) -> Amount:
    """``0.5`` or ``50%``.

    Args:
        name: of the target, for messages.
        text: the amount.

    Raises:
        OptionError: no number, or not between 0 and 1.
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise OptionError(f"target {name}={text}: {text!r} is not a number") from None
    if not 0 < value < 1:
        raise OptionError(f"target {name}={text}: give a share between 0 and 1, or a percentage")
    return Amount(value)


def positive(name: str, text: str) -> Amount:
    """``0.5``, ``50%`` or ``3.2``, in whatever unit it is about; arguments as for :func:`share`.

    Raises:
        OptionError: no finite number above 0, or more than 100%.
    """
    try:
        return share(name, text)
    except OptionError:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise
    return Amount(value)


def share_or_nothing(name: str, text: str) -> Amount:
    """``0.02``, ``2%`` or ``0``; arguments as for :func:`share`.

    Raises:
        OptionError: none of them.
    """
    return Amount(0.0) if re.fullmatch(r"\s*0?\.?0*%?\s*", text) and "0" in text else share(name, text)


def share_or_bytes(name: str, text: str) -> Amount:
    """``0.5``, ``50%`` or ``500KB``; arguments as for :func:`share`.

    Raises:
        OptionError: neither.
    """
    if re.fullmatch(r"\s*(0?\.[0-9]+|[0-9.]+%)\s*", text):
        return share(name, text.strip())
    try:
        size = parse_bytes(text)
    except OptionError as error:
        raise OptionError(f"target {name}={text}: {error}") from None
    if size < 1:
        raise OptionError(f"target {name}={text}: give bytes such as 500KB, or a share between 0 and 1")
    return Amount(float(size), Unit.BYTES)


def share_or_time(name: str, text: str) -> Amount:
    """``0.5``, ``50%``, ``4ms`` (also ``us``, ``s``) or ``min``; arguments as for :func:`share`.

    Raises:
        OptionError: none of them.
    """
    if text == "min":
        return Amount(unit=Unit.LEAST)
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(ms|us|s)", text.strip())
    if match is None:
        try:
            return share(name, text)
        except OptionError:
            raise OptionError(
                f"target {name}={text}: give a share between 0 and 1, a time such as 4ms, or min"
            ) from None
    milliseconds = float(match[1]) * _MILLISECONDS[match[2]]
    if milliseconds <= 0:
        raise OptionError(f"target {name}={text}: give a time above 0")
    return Amount(milliseconds, Unit.MILLISECONDS)


def parse_bytes(text: str) -> int:
    """Bytes of ``500KB``, ``1.5 GiB``, ``4096``.

    Raises:
        OptionError: not a size.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise OptionError(f"{text!r} is not a size: write for example 500KB, 4GB or 2GiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))
