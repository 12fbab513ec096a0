"""slice() and prune(): from a module and its pruned ONNX model to a smaller module."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

import obs_onnx
from obs_onnx.data.rows import random_feed
from obs_onnx.entrypoints.prune import Pruned
from obs_onnx.io.onnx_file import ModelLike, load_model, open_model
from obs_onnx.io.paths import keep_path
from obs_onnx.passes.channels.keep_file import KeepFile, replay
from obs_onnx.passes.errors import DataError, ModelError, OptionError, VerificationError, boundary, reason
from obs_onnx.runtimes import calibration_runtime
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.torch.calls import Calls, record
from obs_onnx.torch.forms import forms
from obs_onnx.torch.graphs import compare
from obs_onnx.torch.heads import resize_heads
from obs_onnx.torch.matching import match
from obs_onnx.torch.statistics import settle
from obs_onnx.torch.surgery import operate
from obs_onnx.torch.weights import collect

__all__ = ["Sliced", "prune", "slice"]

_NAMED = 5  # initializers in a message
_TOLERANCE = 1e-4  # relative to the largest output: other kernels round otherwise

Args = Sequence[object]
Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class Sliced:
    """A smaller module.

    Attributes:
        module: the smaller one, whose parts are in the modes of those of the module that came in.
        pruned: what pruning gave, where :func:`prune` did it.
        difference: largest difference of its outputs from those of the ONNX model, relative to the largest
            output.
        notes: for the reader.
    """

    module: nn.Module
    difference: float
    pruned: Pruned | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        count = sum(one.numel() for one in self.module.parameters())
        return f"<{type(self).__name__}: {count:,} parameters, {self.difference:.1e} from the ONNX model>"


def slice(
    module: nn.Module,
    pruned: Pruned | Mapping[str, object] | str | os.PathLike[str],
    dense: ModelLike,
    args: Args | torch.Tensor | None = None,
) -> Sliced:
    """A smaller copy of a module, with the weights of the pruned ONNX model.

    Args:
        module: what was exported, with the weights that it had then; it is not changed.
        pruned: the result of :func:`obs_onnx.prune`, or the file that it wrote, with its ``.keep.json``
            beside it; or a ``.keep.json`` or its contents, for the module's own weights without a refit.
        dense: the ONNX model that was pruned.
        args: of a call of the module, on which it is compared; by default one random sample.

    Raises:
        ModelError: a part of the module has no smaller form; the message names it.
        VerificationError: the module's outputs are not those of the ONNX model.
    """
    whole, name, _ = open_model(dense, None)
    keep, small = _read(pruned, whole)
    with boundary(f"the pruned model does not fit {name}"):
        constants = compare(whole, small, keep)
    given = _made_up(small) if args is None else _tuple(args)
    smaller = copy.deepcopy(module)
    with boundary(f"{type(module).__name__} cannot be called with the arguments given", DataError):
        calls = record(smaller, given)
    matches = match(constants, forms(smaller, calls), calls)
    cuts = collect(smaller, matches)
    notes = operate(smaller, cuts)
    narrower = resize_heads(smaller, cuts, calls)
    known = {one.constant.name for one in matches}
    touched = [one for one in constants if one.touched and one.added_to is None]
    left = [one.family for one in touched if one.name not in known]
    owners = {one.constant.family: one.form.path for one in matches if one.constant.touched}
    try:
        difference = _compared(smaller, given, small, left, owners)
    except VerificationError:
        if not narrower:
            raise
        for one in narrower:
            one.scale()
        difference = _compared(smaller, given, small, left, owners)
    return Sliced(smaller, difference, notes=notes)


def prune(
    module: nn.Module,
    args: Args | torch.Tensor,
    calib: object,
    *,
    dynamo: bool = True,
    export: Mapping[str, Any] | None = None,
    **options: Any,
) -> Sliced:
    """Export a module, prune it and give back a smaller module, in one call.

    Running statistics of batch normalization are measured on the calibration data, so that training starts
    where inference is.

    Args:
        module: any that ``torch.onnx.export`` takes; it is not changed.
        args: of a call of it.
        calib: tensors (one for each argument) or batches of them, as a ``DataLoader`` gives; else as for
            :func:`obs_onnx.prune`.
        dynamo: which exporter.
        export: further keywords of ``torch.onnx.export``.
        options: of :func:`obs_onnx.prune`, ``targets`` above all.

    Raises:
        ModelError: it cannot be exported, or a part of it has no smaller form.
        DataError, OptionError, MissingRuntimeError: see :func:`obs_onnx.prune`.
        VerificationError: a result broke a promise.
    """
    given = _tuple(args)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exported = copy.deepcopy(module).eval()
        with boundary(f"{type(module).__name__} cannot be exported"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                exported, given, str(path), dynamo=dynamo, **{"verbose": False, **(export or {})}
            )
        dense = load_model(path, custom_domains=None)
        batches = _batches(calib)
        data = calib if batches is None else _stacked(batches, [str(one.name) for one in dense.graph.inputs])
        found = obs_onnx.prune(path, calib=data, **options)
        sliced = slice(module, found, dense, given)
    if batches is not None:
        settle(sliced.module, [one[: len(given)] for one in batches])
    return Sliced(sliced.module, sliced.difference, found, sliced.notes)


def _tuple(args: Args | torch.Tensor) -> tuple[object, ...]:
    return (args,) if isinstance(args, torch.Tensor) else tuple(args)


def _read(pruned: object, dense: ir.Model) -> tuple[KeepFile, ir.Model]:
    """What stays, and the smaller model."""
    if isinstance(pruned, Pruned):
        if pruned.keep is None:
            raise OptionError("no channels were removed: zeros alone make no module smaller")
        return cast("KeepFile", pruned.keep), pruned.model
    if isinstance(pruned, Mapping):
        file = cast(
            "KeepFile", {"schema": 1, **pruned} if "tensors" in pruned else {"schema": 1, "tensors": pruned}
        )
        with boundary("what is kept does not fit the dense model"):
            return file, replay(dense, file)
    path = Path(cast("str | os.PathLike[str]", pruned))
    beside = path if path.suffix == ".json" else keep_path(path)
    with boundary(f"{beside} cannot be read", DataError):
        file = json.loads(beside.read_text(encoding="utf-8"))
    if not isinstance(file, Mapping) or "tensors" not in file:
        raise DataError(f"{beside} is no keep.json: give the file that prune writes beside its model")
    if path.suffix == ".json":
        return _read(file, dense)
    return file, load_model(path, custom_domains=None)


def _made_up(small: ir.Model) -> tuple[object, ...]:
    """Arguments for a call."""
    session = open_whole(calibration_runtime(), small)
    feed = random_feed(session.inputs)
    return tuple(torch.from_numpy(feed[spec.name]) for spec in session.inputs)


def _compared(
    smaller: nn.Module, args: Args, small: ir.Model, left: Sequence[str], owners: Mapping[str, str]
) -> float:
    """How far the outputs of the module are from those of the ONNX model.

    Args:
        smaller: the module.
        args: of the call.
        small: the model.
        left: initializers that changed and that no parameter was found for.
        owners: of the others, the module that holds them.

    Raises:
        ModelError: the module cannot be called any more.
        VerificationError: it gives something else.
    """
    told = f"; no parameter holds {', '.join(left[:_NAMED])}" if left else ""
    running: list[str] = []
    handles = []
    for path, one in smaller.named_modules():

        def begin(one: nn.Module, inputs: object, path: str = path) -> None:
            running.append(path)

        def end(one: nn.Module, inputs: object, output: object) -> None:
            running.pop()

        handles += [one.register_forward_pre_hook(begin), one.register_forward_hook(end)]
    try:
        calls = record(smaller, args)
    except Exception as error:
        where = running[-1] if running else ""
        kind = type(smaller.get_submodule(where)).__name__
        inside = [
            name for name, path in owners.items() if f"{path}.".startswith(f"{where}." if where else "")
        ]
        raise ModelError(
            f"{where or 'the module'} ({kind}) cannot run with fewer channels, its code counts on their "
            f"number: {reason(error)}{told}; keep what it holds with protect={[*inside, *left][: 2 * _NAMED]}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return _difference(calls, args, small, told)


def _difference(calls: Calls, args: Args, small: ir.Model, told: str) -> float:
    session = open_whole(calibration_runtime(), small)
    tensors = [one.detach().cpu().numpy() for one in args if isinstance(one, torch.Tensor)]
    feed = {spec.name: one for spec, one in zip(session.inputs, tensors, strict=False)}
    wanted = list(session.run(feed).values())
    found = [one.detach().cpu().to(torch.float64).numpy() for one in calls.outputs]
    if [one.shape for one in found] != [one.shape for one in wanted]:
        raise VerificationError(f"the smaller module gives other shapes than the ONNX model{told}")
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        most = np.abs(other.astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(np.abs(one - other).max(initial=0.0) / (most or 1.0)))
    if not worst <= _TOLERANCE:
        raise VerificationError(
            f"the smaller module differs from the ONNX model by {worst:.1e}, allowed {_TOLERANCE:.0e}{told}"
        )
    return worst


def _batches(calib: object) -> list[tuple[torch.Tensor, ...]] | None:
    """Batches of tensors; None where the data is none."""
    if isinstance(calib, torch.Tensor):
        return [(calib,)]
    if isinstance(calib, tuple) and calib and all(isinstance(one, torch.Tensor) for one in calib):
        return [calib]
    if isinstance(calib, (str, os.PathLike, Mapping, np.ndarray)) or not isinstance(calib, Iterable):
        return None
    found = [one if isinstance(one, (tuple, list)) else (one,) for one in calib]
    if not found or not all(isinstance(x, torch.Tensor) for one in found for x in one):
        return None
    return [tuple(one) for one in found]


def _stacked(batches: Sequence[tuple[torch.Tensor, ...]], names: Sequence[str]) -> dict[str, Array]:
    """Batches as arrays by the names of the inputs; one more tensor than there are inputs is labels."""
    count = {len(one) for one in batches}
    if len(count) != 1 or not len(names) <= (found := count.pop()) <= len(names) + 1:
        raise DataError(
            f"calib needs batches of {len(names)} tensors for {', '.join(names)}, and labels at most"
        )
    keys = [*names, "labels"][:found]
    return {
        key: np.concatenate([one[place].detach().cpu().numpy() for one in batches])
        for place, key in enumerate(keys)
    }
