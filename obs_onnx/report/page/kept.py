"""Which channels of each group stay: a strip of cells from the first to the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from obs_onnx.report.page.svg import Picture, shortened, without_ending
from obs_onnx.results.pruning import GroupResult

__all__ = ["STRIPS", "draw_kept"]

STRIPS = 60  # groups at most, the widest first
_WIDTH, _ROW, _BAR = 360.0, 18.0, 11.0  # units: of the picture, of a group, of its strip
_NAMES, _NUMBERS, _CHARACTERS = 118.0, 62.0, 18
_CELLS, _SHADES = 90, 4


def draw_kept(groups: Sequence[GroupResult]) -> tuple[str, int]:
    """The picture as SVG, empty where no group says what stays; and how many groups it leaves out."""
    known = [group for group in groups if group.channels and (group.stays or not group.kept)]
    if not any(group.stays for group in known):
        return "", 0
    widest = sorted(known, key=lambda group: -group.channels)[:STRIPS]
    shown = [group for group in known if group in widest][:STRIPS]
    label = "; ".join(f"{group.name}: {group.kept} of {group.channels}" for group in shown)
    picture = Picture(_WIDTH, _ROW * len(shown) + 4, f"Channels that stay, by group. {label}")
    room = _WIDTH - _NAMES - _NUMBERS
    names = without_ending([group.name for group in shown])
    for row, group in enumerate(shown):
        top = _ROW * row + (_ROW - _BAR) / 2
        tip = f"{group.name}: {group.kept} of {group.channels} channels stay"
        picture.rectangle(_NAMES, top, room, _BAR, "rest", tip)
        for start, end, shade in _runs(group):
            if shade:
                picture.rectangle(_NAMES + room * start, top, room * (end - start), _BAR, f"h{shade}", tip)
        base = top + _BAR - 2
        picture.text(0, base, shortened(names[row], _CHARACTERS), "name", tip)
        picture.text(_WIDTH - 2, base, f"{group.kept} / {group.channels}", "numbers", tip)
    return picture.markup(), len(known) - len(shown)


def _runs(group: GroupResult) -> Iterator[tuple[float, float, int]]:
    """Cells of one shade beside each other: start and end, as shares of the strip, and the shade."""
    stays = np.zeros(group.channels)
    stays[list(group.stays)] = 1
    parts = np.array_split(stays, min(group.channels, _CELLS))
    shades = [int(np.ceil(_SHADES * part.mean() - 1e-9)) for part in parts]
    ends = np.cumsum([len(part) for part in parts]) / group.channels
    position = 0
    for shade, cells in groupby(shades):
        first = position
        position += len(list(cells))
        yield float(ends[first - 1]) if first else 0.0, float(ends[position - 1]), shade
