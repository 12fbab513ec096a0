"""Numbers as people read them; None is a dash everywhere."""

from __future__ import annotations

__all__ = ["DASH", "count", "error", "milliseconds", "percent", "size", "times"]

DASH = "-"
_SHORT = 0.1  # milliseconds, of which three decimals say too little


def count(value: int | None) -> str:
    """Thousands separated by commas."""
    return DASH if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in decimal units (1 kB = 1,000 bytes), three digits at most.

    Columns are narrow: ``rich.filesize.decimal`` writes ``999 bytes`` and ``1,000.0 kB``.
    """
    if value is None:
        return DASH
    amount, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return DASH if share is None else f"{100 * share:.{digits}f} %"


def error(value: float | None) -> str:
    """A relative error, to three digits."""
    return DASH if value is None else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """A latency, to about three digits."""
    if value is None:
        return DASH
    if value < _SHORT:
        return f"{value:.3g} ms"
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def times(before: float | None, after: float | None) -> str:
    """``after`` as a factor of ``before``, or nothing where one of them is missing."""
    return f"x {after / before:.3g}" if before and after is not None else ""
