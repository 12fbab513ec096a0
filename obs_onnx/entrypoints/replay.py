"""replay(): the channels that a keep.json leaves out are removed from a model; nothing is refitted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir

from obs_onnx.calibration.layer_weights import regrouped, stored
from obs_onnx.data.fixed import Fixed, fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.language.tokens import Tokens, TokenSource
from obs_onnx.data.open_source import open_source
from obs_onnx.data.rows import random_feed
from obs_onnx.entrypoints.files import check_files
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.replay import ReplayOptions
from obs_onnx.io.atomic_files import together
from obs_onnx.io.json_file import write_json
from obs_onnx.io.onnx_file import ModelLike, load_model, open_model, save_model
from obs_onnx.io.paths import calibration_beside
from obs_onnx.io.streams import is_stream
from obs_onnx.passes.canonical.bare_integers import BareIntegers
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.keep_file import KeepFile, caches_of, masks, shrunk
from obs_onnx.passes.channels.vocabulary import cut_vocabulary
from obs_onnx.passes.errors import DataError, InputError, boundary
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.parameters import integer_forms
from obs_onnx.pruning.language.cache_config import files_beside
from obs_onnx.pruning.language.fewer_tokens import FewerTokens
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
    if file.get("rotated"):
        raise DataError(
            f"{source} names channels that {name} does not have: {', '.join(file['rotated'])} "
            f"were rotated to other axes before they were cut; prune with --no-rotate "
            "for a plan that can be replayed"
        )
    runtime = calibration_runtime(options.runtime, options.threads, options.custom_ops)
    fewer = _fewer(file)
    tokens = None if fewer is None else fewer.tokens
    with boundary(f"{source} does not fit {name}", DataError):
        original = with_fixed(original, options.fix)
        if tokens is not None:
            original = cut_vocabulary(original, tokens.ids, tokens.kept)
        original = declare_shapes(lambda: runtime, original)
        caches = caches_of(original, file)
        inner = caches.inner(original)
        small = shrunk(inner, file, caches.names, _round)
    front = replace(find_front(runtime, inner), caches=caches if caches.pairs else None)
    calib = calibration_beside(path) if options.calib is None else options.calib
    notes = [_compared(runtime, front, file, small, calib, options.fix, tokens), *front.notes_behind]
    whole = front.closed(small)
    destination = None if options.output is None else Path(options.output)
    if destination is not None:
        notes += _write(whole, front, fewer, runtime, path, destination)
    return Replayed(whole, destination, tuple(notes))


def _write(
    model: ir.Model,
    front: Front,
    fewer: FewerTokens | None,
    runtime: Runtime,
    path: Path | None,
    destination: Path,
) -> Sequence[str]:
    """Write the model, and what says of its caches and tokens what they are.

    Returns:
        What a configuration could not say.
    """

    def check(written: Path) -> None:
        again = load_model(written, custom_domains=None)
        open_whole(runtime, again if front.cut is None else front.part(again))

    told = list[str]()
    with together() as files:
        save_model(model, destination, check, files)
        if not is_stream(destination):
            names = [] if front.caches is None else sorted(front.caches.names)
            beside, told = files_beside(model, names, fewer, path, destination)
            for file, contents in beside.items():
                write_json(file, contents, files)
    return told


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
    uses, removed, caches = found.get("uses", {}), found.get("removed", []), found.get("caches", {})
    if not isinstance(uses, Mapping) or not isinstance(removed, list) or not isinstance(caches, Mapping):
        raise wrong
    try:
        kept = [
            *found["tensors"].values(),
            *caches.values(),
            *(use["kept"] for each in uses.values() for use in each),
        ]
        tokens = found.get("vocabulary", {"inputs": [], "outputs": [], "size": 0, "kept": []})
        kept += [{"0": [*tokens["kept"], tokens["size"]]}]
        if not all(isinstance(one, str) for one in (*tokens["inputs"], *tokens["outputs"])):
            raise wrong
        indices = [(int(axis), index) for axes in kept for axis, part in axes.items() for index in part]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise wrong from error
    if any(axis < 0 or type(index) is not int or index < 0 for axis, index in indices):
        raise wrong
    return cast("KeepFile", {"schema": 1, **found})


def _fewer(file: KeepFile) -> FewerTokens | None:
    """The tokens that stay, where some went."""
    if "vocabulary" not in file:
        return None
    given = file["vocabulary"]
    tokens = Tokens(tuple(given["inputs"]), given["size"], np.array(given["kept"], np.int64))
    return FewerTokens(tokens, tuple(given["outputs"]))


def _compared(
    runtime: Runtime,
    front: Front,
    file: KeepFile,
    small: ir.Model,
    calib: object,
    fix: Fixed,
    tokens: Tokens | None,
) -> str:
    """Compare with the model in which the channels are silenced, and say so.

    Raises:
        VerificationError: the outputs differ.
    """
    if file.get("removed"):
        return "not compared with the dense model: whole branches are gone"
    caches = () if front.caches is None else front.caches.names
    coupling = couple(prepare(front.model, canonical=False), caches=caches)
    kept = masks(coupling, file)
    coupling = coupling.of(_with_blocks(coupling, kept, front.part(small)))
    session = open_whole(runtime, coupling.model)
    try:
        sizes = implied_sizes(front.model)
        feed: Values = random_feed(session.inputs, sizes=sizes)
        if calib is not None:
            data = open_source(calib, session.inputs, without=fixed_names(fix), sizes=sizes)
            feed = next(iter(data if tokens is None else TokenSource(data, tokens)))
        session.run(feed)
    except InputError as error:
        if calib is not None:
            raise
        return f"not compared with the dense model, which wants data of its own: {error}"
    found = check_removal(runtime, coupling, kept, front.part(small), feed, caches=front.caches)
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
