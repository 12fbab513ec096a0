"""Inputs that a user sets for good: what was given, as arrays that the model takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import OptionError, boundary, named
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.interface.fix_inputs import FixInputs

__all__ = ["Fixed", "all_with_fixed", "fixed_names", "with_fixed"]

Fixed: TypeAlias = Mapping[str, object] | Sequence[str]
"""Values by name of the input, or texts ``NAME=VALUE``: a number, a list in brackets, or a .npy file."""


def with_fixed(model: ir.Model, fix: Fixed, *, partly: bool = False) -> ir.Model:
    """``model`` itself, or where inputs are set a copy without them in which what follows is computed.

    Args:
        model: as it came in; it is not changed.
        fix: inputs and values.
        partly: names that are none of an input are passed over, as in a model in which they are set already.

    Raises:
        OptionError: a name is none of an input, or a value does not fit it.
    """
    values = dict(fix) if isinstance(fix, Mapping) else dict(map(_parsed, fix))
    inputs = {str(value.name): value for value in real_inputs(model)}
    unknown = [name for name in values if name not in inputs]
    if unknown and not partly:
        raise OptionError(
            f"{named('fix')} {unknown[0]}: the model has no such input; its inputs are {', '.join(inputs)}"
        )
    arrays = {name: _array(inputs[name], given) for name, given in values.items() if name in inputs}
    if not arrays:
        return model
    return FixInputs(arrays)(plain(model)).model


def all_with_fixed(models: Sequence[ir.Model], fix: Fixed) -> list[ir.Model]:
    """Several models that differ in which of their inputs are set already; see :func:`with_fixed`.

    Raises:
        OptionError: a name is none of an input of any of them, or a value does not fit it.
    """
    changed = [with_fixed(model, fix, partly=True) for model in models]
    if all(new is old for new, old in zip(changed, models, strict=True)):
        with_fixed(models[0], fix)
    return changed


def fixed_names(fix: Fixed) -> list[str]:
    """Names of the inputs that are set."""
    return [text.partition("=")[0] for text in fix]


def _parsed(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise OptionError(f"{named('fix')} {text!r} is not NAME=VALUE")
    if value.endswith(".npy"):
        with boundary(f"{named('fix')} {name}: {value} cannot be read", OptionError):
            array: object = np.load(Path(value), allow_pickle=False)
            return name, array
    try:
        return name, json.loads(f"[{value}]" if "," in value and value[0] not in "[{" else value)
    except ValueError:
        return name, value  # text


def _array(value: ir.Value, given: object) -> NDArray[np.generic]:
    """What was given in the type and shape of an input."""
    what = f"{named('fix')} {value.name}"
    if value.dtype is None:
        raise OptionError(f"{what}: the model does not say of which type this input is")
    if value.dtype == ir.DataType.STRING:
        array: NDArray[np.generic] = np.asarray(given, dtype=object)
    else:
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise OptionError(f"{what}: {given!r} is no number, list of numbers or .npy file")
        cast = array.astype(value.dtype.numpy())
        if value.dtype.numpy().kind in "biu" and not np.array_equal(cast, array):
            raise OptionError(f"{what}: {given!r} does not fit the type {value.dtype.name.lower()}")
        array = cast
    sizes = None if value.shape is None else [n if isinstance(n, int) else None for n in value.shape]
    if sizes is None or _fits(array.shape, sizes):
        return array
    if array.ndim == 0 and None not in sizes:
        return np.full([int(n) for n in sizes if n is not None], array)
    raise OptionError(
        f"{what}: the value has shape {list(array.shape)}, the input {value.shape}: give the whole array"
    )


def _fits(shape: Sequence[int], sizes: Sequence[int | None]) -> bool:
    return len(shape) == len(sizes) and all(n in (None, m) for m, n in zip(shape, sizes, strict=True))
