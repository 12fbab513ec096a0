"""Rows of benchmarks in one file, docs/results.json, from which docs/make_results.py writes the pages.

A row takes the place of the one with the same key; what it was measured with stands in ``made``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["PACKAGES", "Results", "add_results"]

PACKAGES = ("onnxruntime", "numpy", "scipy", "onnx-ir")
_DIGITS = 5  # of a figure, significant ones


def add_results(parser: argparse.ArgumentParser) -> None:
    """The option that says where rows are kept."""
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="put the rows into FILE, docs/results.json"
    )


@dataclass(frozen=True)
class Results:
    """Rows of one table of a file.

    Attributes:
        path: the file; None keeps nothing.
        table: its name there.
        key: names of the cells by which a row is known.
        packages: whose versions are kept.
    """

    path: Path | None
    table: str
    key: tuple[str, ...]
    packages: Collection[str] = PACKAGES

    @classmethod
    def of(
        cls,
        parser: argparse.ArgumentParser,
        args: argparse.Namespace,
        table: str,
        key: tuple[str, ...],
        *,
        free: Collection[str] = (),
        packages: Collection[str] = PACKAGES,
    ) -> Results:
        """What the command line asks for; pages show what the defaults give of all options but ``free``."""
        others = [
            name
            for name, value in vars(args).items()
            if name not in ("results", *free) and value != parser.get_default(name)
        ]
        if args.results and others:
            sys.exit(f"--results is for the options by default: leave out {', '.join(sorted(others))}")
        return cls(args.results, table, key, packages)

    def keep(self, row: Mapping[str, str | float | bool | None]) -> None:
        """Put a row into the file, in place of an earlier one with the same key."""
        if self.path is None:
            return
        made = {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), **self._machine()}
        rounded = {name: _rounded(value) for name, value in row.items()}
        rows = self._rows()
        keys = [self._key(old) for old in rows]
        place = keys.index(self._key(rounded)) if self._key(rounded) in keys else len(rows)
        self._write([*rows[:place], {**rounded, "made": made}, *rows[place + 1 :]])

    def drop(self, name: str, value: str) -> None:
        """Remove the rows with this cell, before others take their place."""
        if self.path is not None:
            self._write([row for row in self._rows() if row.get(name) != value])

    def _tables(self) -> dict[str, dict[str, object]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path and self.path.exists() else {}

    def _rows(self) -> list[dict[str, object]]:
        return list(self._tables().get(self.table, {}).get("rows", ()))

    def _write(self, rows: list[dict[str, object]]) -> None:
        """All tables, with these rows in this one; whole or not at all."""
        assert self.path is not None
        script = f"benchmarks/{Path(sys.argv[0]).name}"
        text = json.dumps({**self._tables(), self.table: {"script": script, "rows": rows}}, indent=1)
        whole = self.path.with_suffix(".part")
        whole.write_text(f"{text}\n", encoding="utf-8")
        os.replace(whole, self.path)

    def _key(self, row: Mapping[str, object]) -> tuple[object, ...]:
        return tuple(row.get(name) for name in self.key)

    def _machine(self) -> dict[str, str]:
        from obs_onnx.runtimes.machine import describe_machine

        return {"cpu": str(describe_machine()["cpu"]), **{name: version(name) for name in self.packages}}


def _rounded(value: str | float | bool | None) -> str | float | bool | None:
    """A figure to some digits; None where there is none."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
