"""A picture of the network: layers from top to bottom, as wide as they were and as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from obs_onnx.report import format as fmt
from obs_onnx.report.page.svg import Picture, shortened, without_ending
from obs_onnx.results.pruning import LayerResult

__all__ = ["draw_network"]

_WIDTH, _ROW, _BAR = 360.0, 24.0, 12.0  # units: of the picture, of a layer, of its bar
_NAMES, _NUMBERS, _CHARACTERS = 118.0, 62.0, 18  # columns of names and numbers, letters of a name
_TRACK, _TRACKS, _COLOURS = 7.0, 6, 4  # bands of residual streams


@dataclass(frozen=True)
class _Band:
    """Layers that write the same channels.

    Attributes:
        rows: of the layers that write them.
        end: last row that reads them.
        track: column that it stands in.
    """

    group: str
    rows: tuple[int, ...]
    end: int
    track: int


def draw_network(layers: Sequence[LayerResult]) -> str:
    """The picture as SVG; empty where the widths of no layer are known.

    The length of a bar goes with the square root of the width of the dense layer; what of it is filled is the
    share that is left. Channels that several layers write together are bands at the right.
    """
    shown = [layer for layer in layers if layer.widths is not None]
    if not shown:
        return ""
    bands = _bands(shown)
    tracks = 1 + max((band.track for band in bands), default=-1)
    room = _WIDTH - _NAMES - _NUMBERS - _TRACK * tracks - 11
    middle = _NAMES + room / 2
    widest = max(_outputs(layer) for layer in shown)
    lengths = [room * math.sqrt(_outputs(layer) / widest) for layer in shown]
    kept = [length * _share(layer) for length, layer in zip(lengths, shown, strict=True)]
    names = without_ending([layer.name for layer in shown])
    label = "; ".join(f"{layer.name}: {_numbers(layer)}" for layer in shown[:50])
    picture = Picture(_WIDTH, _ROW * len(shown) + 4, f"Outputs of each layer, before and after. {label}")
    for row in range(len(shown) - 1):
        _flow(picture, middle, row, kept[row], kept[row + 1])
    for row, layer in enumerate(shown):
        top = _ROW * row + (_ROW - _BAR) / 2
        left = fmt.percent(layer.kept)
        tip = f"{layer.name} ({layer.op_type}): {_numbers(layer)} outputs, {left} of the weights"
        picture.rectangle(middle - lengths[row] / 2, top, lengths[row], _BAR, "dense", tip)
        picture.rectangle(middle - kept[row] / 2, top, kept[row], _BAR, "kept", tip)
        base = top + _BAR - 2.5
        picture.text(0, base, shortened(names[row], _CHARACTERS), "name", tip)
        picture.text(_WIDTH - _TRACK * tracks - 5, base, _numbers(layer), "numbers", tip)
    _draw_bands(picture, bands)
    return picture.markup()


def _outputs(layer: LayerResult) -> int:
    return 1 if layer.widths is None else max(layer.widths[1], 1)


def _share(layer: LayerResult) -> float:
    """What of its outputs a layer keeps; of one whose widths did not change, of its weights."""
    if layer.kept_widths is None:
        return layer.kept
    return min(layer.kept_widths[1] / _outputs(layer), 1.0)


def _numbers(layer: LayerResult) -> str:
    """``64 → 40``; where the widths did not change, the share of weights that is left."""
    if layer.kept_widths is None:
        return fmt.percent(layer.kept, 0)
    before, after = _outputs(layer), layer.kept_widths[1]
    return str(before) if before == after else f"{before} → {after}"


def _flow(picture: Picture, middle: float, row: int, above: float, below: float) -> None:
    """What is left flows from a layer into the next one."""
    top, bottom = _ROW * row + (_ROW + _BAR) / 2, _ROW * (row + 1) + (_ROW - _BAR) / 2
    corners = [(-above, top), (above, top), (below, bottom), (-below, bottom)]
    picture.area([(middle + x / 2, y) for x, y in corners], "flow")


def _bands(layers: Sequence[LayerResult]) -> list[_Band]:
    """Channels that several layers write, as far as there are columns for them."""
    writers, readers = dict[str, list[int]](), dict[str, int]()
    for row, layer in enumerate(layers):
        if layer.writes is not None:
            writers.setdefault(layer.writes, []).append(row)
        if layer.reads is not None:
            readers[layer.reads] = row
    several: Mapping[str, list[int]] = {group: rows for group, rows in writers.items() if len(rows) > 1}
    free, found = [-1] * _TRACKS, list[_Band]()
    for group, rows in several.items():
        end = max(rows[-1], readers.get(group, 0))
        track = next((number for number, until in enumerate(free) if until < rows[0]), None)
        if track is not None:
            free[track] = end
            found.append(_Band(group, tuple(rows), end, track))
    return found


def _draw_bands(picture: Picture, bands: Sequence[_Band]) -> None:
    for number, band in enumerate(bands):
        x = _WIDTH - _TRACK * (band.track + 0.5)
        kind, tip = (
            f"band c{number % _COLOURS}",
            f"channels of {band.group}, which {len(band.rows)} layers write",
        )
        picture.line([(x, _ROW * (band.rows[0] + 0.5)), (x, _ROW * (band.end + 0.5))], kind, tip)
        for row in band.rows:
            y = _ROW * (row + 0.5)
            picture.line([(x - _TRACK * 0.6, y), (x, y)], kind, tip)
