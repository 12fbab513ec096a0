"""replay(): the channels that a keep.json leaves out are removed from a model; nothing is refitted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx_ir as ir

from obs_onnx.calibration.layer_weights import regrouped, stored
from obs_onnx.data.fixed import Fixed, fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.open_source import open_source
from obs_onnx.data.rows import random_feed
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.replay import ReplayOptions
from obs_onnx.io.onnx_file import ModelLike, load_model, open_model, save_model
from obs_onnx.io.paths import calibration_beside, destination_of
from obs_onnx.passes.canonical.bare_integers import BareIntegers
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.keep_file import KeepFile, masks
from obs_onnx.passes.channels.keep_file import replay as without_channels
from obs_onnx.passes.errors import DataError, InputError, boundary
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.parameters import integer_forms
from obs_onnx.reconstruction.channels import spread
from obs_onnx.runtimes import calibration_runtime
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.observed_shapes import declare_shapes
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole
from obs_onnx.verification.front import Front, find_front
from obs_onnx.verification.removal import check_removal

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True)
class Replayed:
    """What :func:`replay` returns.

    Attributes:
        model: without the channels.
        output: its file, if it was written.
        notes: what was compared, and what not.
    """

    model: ir.Model
    output: Path | None
    notes: tuple[str, ...]


@takes(ReplayOptions)
def replay(model: ModelLike, options: ReplayOptions) -> Replayed:
    """Remove the channels that a keep.json leaves out from a model of the same architecture.

    Weights that stay are those of the model: nothing is refitted. The result is compared with the model in
    which the same channels are silenced.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.replay.ReplayOptions`.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input; nothing is written.
        VerificationError: the outputs differ; nothing is written.
    """
    check_files(model, options)
    original, name, path = open_model(model, None)
    file, source = _read(options.keep)
    runtime = calibration_runtime(options.runtime, options.threads, options.custom_ops)
    with boundary(f"{source} does not fit {name}", DataError):
        original = declare_shapes(lambda: runtime, with_fixed(original, options.fix))
        small = without_channels(original, file, _round)
    front = find_front(runtime, original)
    calib = calibration_beside(path) if options.calib is None else options.calib
    note = _compared(runtime, front, file, small, calib, options.fix)
    destination = destination_of(options.output, path)
    if destination is not None:

        def check(written: Path) -> None:
            open_whole(runtime, front.part(load_model(written, custom_domains=None)))

        save_model(small, destination, check)
    return Replayed(small, destination, (note, *front.notes_behind))


def _read(keep: object) -> tuple[KeepFile, str]:
    """The contents of a keep.json, and what messages call it."""
    if isinstance(keep, Mapping):
        return _checked(keep, "the mapping of what is kept"), "the mapping of what is kept"
    where = os.fspath(cast("str | os.PathLike[str]", keep))
    with boundary(f"{where} cannot be read", DataError):
        return _checked(json.loads(Path(where).read_text(encoding="utf-8")), where), where


def _checked(found: object, where: str) -> KeepFile:
    """The contents, of the form that a keep.json has."""
    wrong = DataError(f"{where} is no keep.json: give the file that prune writes beside its model")
    if not isinstance(found, Mapping) or not isinstance(found.get("tensors"), Mapping):
        raise wrong
    uses, removed = found.get("uses", {}), found.get("removed", [])
    if not isinstance(uses, Mapping) or not isinstance(removed, list):
        raise wrong
    try:
        kept = [*found["tensors"].values(), *(use["kept"] for each in uses.values() for use in each)]
        indices = [(int(axis), index) for axes in kept for axis, part in axes.items() for index in part]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise wrong from error
    if any(axis < 0 or type(index) is not int or index < 0 for axis, index in indices):
        raise wrong
    return cast("KeepFile", {"schema": 1, **found})


def _compared(
    runtime: Runtime, front: Front, file: KeepFile, small: ir.Model, calib: object, fix: Fixed
) -> str:
    """Compare with the model in which the channels are silenced, and say so.

    Raises:
        VerificationError: the outputs differ.
    """
    if file.get("removed"):
        return "not compared with the dense model: whole branches are gone"
    if file.get("caches"):
        return "not compared with the dense model: its caches have other sizes"
    coupling = couple(prepare(front.model, canonical=False))
    kept = masks(coupling, file)
    coupling = coupling.of(_with_blocks(coupling, kept, front.part(small)))
    session = open_whole(runtime, coupling.model)
    try:
        sizes = implied_sizes(front.model)
        feed: Values = random_feed(session.inputs, sizes=sizes)
        if calib is not None:
            feed = next(iter(open_source(calib, session.inputs, without=fixed_names(fix), sizes=sizes)))
        session.run(feed)
    except InputError as error:
        if calib is not None:
            raise
        return f"not compared with the dense model, which wants data of its own: {error}"
    found = check_removal(runtime, coupling, kept, front.part(small), feed)
    if found.largest is None:
        return "nothing could be compared with the dense model, whose outputs differ from run to run"
    on = "a random sample" if calib is None else "the data"
    return (
        f"{', '.join(found.differences)} equal those of the model with the channels silenced, on {on}: "
        f"relative difference {found.largest:.1e}, allowed {found.tolerance:.0e}"
    )


def _round(model: ir.Model) -> None:
    """Give weights in blocks the best scales for those inputs that are together now."""
    if any(form.run for form in integer_forms(model).values()):
        BareIntegers().call(model)
        SetWeights(regrouped(model))(model)


def _with_blocks(coupling: Coupling, keep: Keep, small: ir.Model) -> ir.Model:
    """The dense model, with the weights of blocks of ``small`` in their places.

    Blocks of which some inputs have gone were rounded anew.
    """
    opened = prepare(small, canonical=False)
    forms = integer_forms(opened).values()
    names = {name for form in forms if form.run for name in form.names} & set(
        coupling.model.graph.initializers
    )
    tensors = {name: stored(opened, name) for name in names}
    return SetWeights(spread(coupling, keep, tensors))(coupling.model.clone()).model
