"""A criterion against the oracle, one dot for each channel; needs matplotlib (extra ``[report]``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from obs_onnx.io.atomic_files import Together, part_of
from obs_onnx.passes.errors import MissingRuntimeError, OptionError

__all__ = ["check_plot", "write_scatter"]

_SUFFIXES = (".svg", ".png")
_NAMED = 10  # groups that fit into a legend


def check_plot(path: str | os.PathLike[str]) -> None:
    """Fail now if the plot cannot be drawn later.

    Raises:
        OptionError: the name ends in something else than .svg or .png.
        MissingRuntimeError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise OptionError(f"plot {path}: the name has to end in {' or '.join(_SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401  (the import itself is the question)
    except ImportError as error:
        raise MissingRuntimeError("plots need matplotlib: install obs-onnx[report]") from error


def write_scatter(
    path: str | os.PathLike[str],
    groups: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    criterion: str,
    title: str,
    files: Together | None = None,
) -> None:
    """Draw scores against the oracle on logarithmic axes, one colour for each group.

    Args:
        path: file to write, .svg or .png.
        groups: name, scores and oracle of each; what is not positive lies on the lower border.
        criterion: label of the axis.
        title: of the plot.
        files: that it appears together with.

    Raises:
        OptionError, MissingRuntimeError: see :func:`check_plot`; or the file cannot be written.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "obs-onnx"}):
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        axes = figure.subplots()
        floors = [_floor([scores for _, scores, _ in groups]), _floor([oracle for *_, oracle in groups])]
        for name, scores, oracle in groups:
            label = name if len(groups) <= _NAMED else None
            x, y = (np.maximum(a, floor) for a, floor in zip((scores, oracle), floors, strict=True))
            axes.scatter(x, y, s=12, alpha=0.7, label=label)
        axes.set(xscale="log", yscale="log", xlabel=criterion, ylabel="oracle |change of loss|", title=title)
        if len(groups) <= _NAMED:
            axes.legend(fontsize="small")
        with part_of(files) as own:
            figure.savefig(own.new(path))


def _floor(arrays: Sequence[NDArray[np.float64]]) -> float:
    """What stands for zero on a logarithmic axis."""
    positive = np.concatenate([array[array > 0] for array in arrays])
    return float(positive.min()) / 2 if positive.size else 1.0
