"""What the user wants of the result: ``macs=0.5``, ``ram=200KB``, ``error=0.02``, ``drop=0.5%`` ..."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from obs_onnx.passes.errors import OptionError

__all__ = ["COSTS", "Targets", "parse_bytes", "parse_targets"]

SHARES = ("sparsity", "macs", "params", "error", "drop")
SIZES = ("size", "ram")
COSTS = ("macs", "params", "size", "ram", "latency")


@dataclass(frozen=True)
class Targets:
    """Limits that all have to hold; None where there is none.

    Attributes:
        sparsity: share of prunable weights that must be zero, in (0, 1).
        macs, params: multiply-accumulates and parameters kept at most, as shares of the dense model's.
        size: of the file (flash), at most: bytes, or below 1 a share of the dense file's size.
        ram: peak memory of the activations of one sample, at most: bytes, or below 1 a share of the dense
            model's (see :mod:`obs_onnx.passes.costs.memory`).
        latency: of a run on the target runtime, at most, as a share of the dense model's.
        latency_ms: the same in milliseconds.
        fastest: as fast as the limits on error and accuracy allow, without limits on other costs.
        error: largest relative output error on held-out calibration data.
        drop: largest loss of accuracy on labelled evaluation data, as a share (0.005 is half a point).
    """

    sparsity: float | None = None
    macs: float | None = None
    params: float | None = None
    size: float | None = None
    ram: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    fastest: bool = False
    error: float | None = None
    drop: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether any of them says how far to go."""
        return bool(self.as_dict()) and not (self.fastest and self.error is None and self.drop is None)

    @property
    def timed(self) -> bool:
        """Whether any of them is about latency."""
        return self.fastest or self.latency is not None or self.latency_ms is not None

    def as_dict(self) -> dict[str, float | str]:
        """What is set, as it was asked for."""
        found: dict[str, float | str] = {
            name: value for name in (*SHARES, *SIZES) if (value := getattr(self, name)) is not None
        }
        if self.latency is not None:
            found["latency"] = self.latency
        elif self.timed:
            found["latency"] = "min" if self.fastest else f"{self.latency_ms:g}ms"
        return found


def parse_targets(given: Mapping[str, float | str] | Iterable[str]) -> Targets:
    """Targets from ``{"sparsity": 0.9}`` or ``["sparsity=0.9", "drop=0.5%"]``.

    Raises:
        OptionError: unknown name, no number, out of range, or targets that contradict each other.
    """
    if isinstance(given, Mapping):
        pairs = [(str(name), str(value)) for name, value in given.items()]
    else:
        pairs = []
        for text in given:
            name, sign, value = text.partition("=")
            if not sign:
                raise OptionError(f"target {text!r} is not KEY=VALUE, for example sparsity=0.9")
            pairs.append((name.strip(), value.strip()))
    values: dict[str, Any] = {}
    asked: set[str] = set()
    for name, value in pairs:
        if name not in (*SHARES, *SIZES, "latency"):
            known = ", ".join((*SHARES, *SIZES, "latency"))
            raise OptionError(f"target {name!r} is unknown: use one of {known}")
        if name in asked:
            raise OptionError(f"target {name} is given twice: give it once")
        asked.add(name)
        if name == "latency":
            values |= _latency(value)
        else:
            values[name] = _size(name, value) if name in SIZES else _share(name, value)
    if values.get("fastest") and (others := asked & {*COSTS} - {"latency"}):
        raise OptionError(
            f"target latency=min goes as far as error and drop allow, target {min(others)} asks for "
            "something else: give a latency, or leave one of them out"
        )
    return Targets(**values)


def _latency(text: str) -> dict[str, Any]:
    """A share, milliseconds, or the least there is."""
    if text == "min":
        return {"fastest": True}
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(ms|us|s)", text.strip())
    if match is None:
        try:
            return {"latency": _share("latency", text)}
        except OptionError:
            raise OptionError(
                f"target latency={text}: give a share between 0 and 1, a time such as 4ms, or min"
            ) from None
    milliseconds = float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]
    if milliseconds <= 0:
        raise OptionError(f"target latency={text}: give a time above 0")
    return {"latency_ms": milliseconds}


def _share(name: str, text: str) -> float:
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise OptionError(f"target {name}={text}: {text!r} is not a number") from None
    if not 0 < value < 1:
        raise OptionError(f"target {name}={text}: give a share between 0 and 1, or a percentage")
    return value


def _size(name: str, text: str) -> float:
    """Bytes, or a share."""
    if re.fullmatch(r"\s*(0?\.[0-9]+|[0-9.]+%)\s*", text):
        return _share(name, text.strip())
    try:
        size = parse_bytes(text)
    except OptionError as error:
        raise OptionError(f"target {name}={text}: {error}") from None
    if size < 1:
        raise OptionError(f"target {name}={text}: give bytes such as 500KB, or a share between 0 and 1")
    return float(size)


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
