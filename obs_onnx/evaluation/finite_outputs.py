"""A model whose outputs are no numbers cannot be compared with anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, is_float
from obs_onnx.passes.errors import InputError, ModelError
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, every_value

__all__ = ["check_outputs"]


def check_outputs(
    runtime: Runtime,
    model: ir.Model | None,
    feed: Values,
    outputs: Mapping[str, Array],
    name_of: str = "the model",
) -> list[str]:
    """Refuse a model whose error cannot be measured, and name the first node that gives what is no number.

    Single infinite values are fine: scores may be masked by them. A note is returned for each such output.

    Args:
        runtime: where the model runs.
        model: in the form that is calibrated; None where its nodes cannot be looked at.
        feed: of data.
        outputs: what it gives for the feed.
        name_of: the model, in messages.

    Raises:
        ModelError: an output of a float type holds NaN, or nothing that is finite.
    """
    notes = []
    for name, y in outputs.items():
        if not is_float(y.dtype) or not y.size or np.isfinite(y).all():
            continue
        y = y.astype(np.float64)
        if np.isnan(y).any():
            test, what = _has_nan, "NaN"
        elif not np.isfinite(y).any():
            test, what = _has_infinite, "nothing but infinite values"
        else:
            if np.isinf(y).any():
                notes.append(
                    f"output {name!r} of {name_of} has infinite values: where those of a smaller model "
                    "differ, its error counts as infinite"
                )
            continue
        where = None if model is None else _first(runtime, model, feed, test)
        first = "" if where is None else f"; the first node that does so is {where.name!r} ({where.op_type})"
        raise ModelError(
            f"{name_of} gives {what} in its output {name!r} for the data{first}: "
            "repair the model, or give data that it was made for"
        )
    return notes


def _has_nan(x: NDArray[np.float64]) -> bool:
    return bool(np.isnan(x).any())


def _has_infinite(x: NDArray[np.float64]) -> bool:
    return bool(np.isinf(x).any())


def _first(
    runtime: Runtime, model: ir.Model, feed: Values, test: Callable[[NDArray[np.float64]], bool]
) -> ir.Node | None:
    """The first node in order with such an output; None where values inside of the model cannot be had."""
    try:
        values = every_value(runtime, model, feed)
    except (InputError, MemoryError):
        return None
    for node in model.graph:
        for value in node.outputs:
            x = values.get(str(value.name))
            if x is not None and is_float(x.dtype) and test(x.astype(np.float64)):
                return node
    return None
