"""Text that may come from a model or its data, made fit to be shown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["first_of", "one_line", "printable"]

_LONGEST = 300  # characters of a message of another program


def printable(text: str) -> str:
    """``text`` with all that does not show escaped: control characters, line breaks, marks of direction.

    Names in a model are data. Sent to a terminal as they are, they could move its cursor or pass for a line
    of the program's own.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def one_line(text: str) -> str:
    """A message of another program in one line, cut where it is long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def first_of(names: Sequence[str], most: int) -> str:
    """At most so many names in a row, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
