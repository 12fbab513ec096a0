"""What was removed, in terms of the initializers of the model that came in: the contents of ``keep.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import TypedDict, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.own_constants import ShareConstants, prepare
from obs_onnx.passes.canonical.plainer.integer_layers import MADE
from obs_onnx.passes.canonical.plainer.written_form import WriteForms
from obs_onnx.passes.channels.branches import LeaveOut, find_branches
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.interface.caches import Caches, find_caches
from obs_onnx.passes.layers.find_layers import find_layers

__all__ = [
    "KeepFile",
    "KeptTokens",
    "Use",
    "caches_of",
    "keep_file",
    "kept_caches",
    "masks",
    "replay",
    "shrunk",
]

Kept = Mapping[str, Sequence[int]]


class Use(TypedDict):
    """What one node keeps of an initializer that serves several.

    Attributes:
        output: the node's first output.
        input: position among its inputs.
        kept: ``{axis: kept indices}``; empty where the node keeps all of it.
    """

    output: str
    input: int
    kept: Kept


class KeptTokens(TypedDict):
    """Tokens that stay.

    Attributes:
        inputs: of token ids.
        outputs: with a score for each token.
        size: number of tokens there were.
        kept: their ids, rising.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    size: int
    kept: Sequence[int]


class KeepFile(TypedDict, total=False):
    """The contents of ``keep.json``.

    Attributes:
        schema: 1.
        tensors: ``{initializer: {axis: kept indices}}``; what is not there keeps all.
        uses: of initializers whose users keep different parts, which are therefore not in ``tensors``.
        removed: initializers that are gone altogether.
        caches: ``{input: {axis: kept indices}}`` of caches that are smaller, as the outputs that give them.
        vocabulary: tokens that stay, where some went before anything else: all else is about the model
            without these.
        rotated: groups whose channels are no channels of the model as it came in: they were rotated to other
            axes first.
    """

    schema: int
    tensors: Mapping[str, Kept]
    uses: Mapping[str, Sequence[Use]]
    removed: Sequence[str]
    caches: Mapping[str, Kept]
    vocabulary: KeptTokens
    rotated: Sequence[str]


def keep_file(
    original: ir.Model,
    coupling: Coupling,
    keep: Keep,
    removed: Sequence[str] = (),
    rotated: Sequence[str] = (),
) -> KeepFile:
    """What stays of the initializers of ``original``.

    Args:
        original: the model as it came in (constants of nodes count as initializers, named after the output).
        coupling: of its prepared form.
        keep: for the groups of ``coupling``.
        removed: names of initializers of that form that the smaller model lacks.
        rotated: names of groups of that form that were rotated first.
    """
    raw = couple(prepare(original, canonical=False), caches=coupling.caches)
    masks = coupling.same_in(raw, keep)
    kept = raw.keep_indices(masks)
    file: KeepFile = {"schema": 1, "tensors": {}}
    if rotated:
        file["rotated"] = list(rotated)
    tensors, uses, gone = {}, {}, []
    scales = _scales(raw.model)
    for name, copies in raw.copies.items():
        if name in scales:
            continue
        parts = [kept.get(str(copy.name), {}) for copy in copies]
        if all(part == parts[0] for part in parts):
            tensors.update({name: parts[0]} if parts[0] else {})
        else:
            uses[name] = [use for copy, part in zip(copies, parts, strict=True) for use in _uses(copy, part)]
        if {str(copy.name) for copy in copies} & set(removed):
            gone.append(name)
    file["tensors"] = tensors
    if uses:
        file["uses"] = uses
    if gone:
        file["removed"] = gone
    if caches := kept_caches(raw, masks):
        file["caches"] = caches
    return file


def _scales(model: ir.Model) -> set[str]:
    """Scales and zero points of opened blocks, which in the file lie along others, and those of no file."""
    forms = (layer.integers for layer in find_layers(model)[0])
    made = {name for name, value in model.graph.initializers.items() if MADE in value.meta}
    return made | {name for form in forms if form is not None and form.run for name in form.names[1:]}


def kept_caches(coupling: Coupling, keep: Keep) -> Mapping[str, Kept]:
    """``{input: {axis: kept indices}}`` of the caches that shrink under ``keep``."""
    alive, found = coupling.alive(keep), {}
    for value in coupling.graph.caches:
        stays = {str(axis): alive(labels) for axis, labels in enumerate(coupling.axes(value) or ())}
        kept = {axis: np.flatnonzero(mask).tolist() for axis, mask in stays.items() if not mask.all()}
        if kept:
            found[str(value.name)] = kept
    return dict(sorted(found.items()))


def _uses(copy: ir.Value, kept: Kept) -> list[Use]:
    places = sorted((str(node.outputs[0].name), index) for node, index in copy.uses())
    return [Use(output=output, input=index, kept=kept) for output, index in places]


def replay(
    original: ir.Model,
    keep: KeepFile | Mapping[str, Kept],
    finish: Callable[[ir.Model], None] = lambda model: None,
) -> ir.Model:
    """A copy of ``original`` without what ``keep`` (a :func:`keep_file`, or its ``tensors``) leaves out.

    Args:
        original: it is not changed.
        keep: what stays.
        finish: called with the smaller model before weights in blocks are packed, whose scales it may choose.

    Raises:
        ValueError: nothing would be left of some axis; a name, a use or an index is none of the model's; or
            the model keeps what ``keep`` leaves out.
        ModelError: the model is broken.
    """
    file = cast("KeepFile", keep) if "schema" in keep else KeepFile(tensors=cast("Mapping[str, Kept]", keep))
    caches = caches_of(original, file)
    return caches.closed(shrunk(caches.inner(original), file, caches.names, finish))


def caches_of(original: ir.Model, file: KeepFile) -> Caches:
    """The caches of a model, where ``file`` says that some are smaller; otherwise none may change."""
    return Caches(original, find_caches(original) if file.get("caches") else ())


def shrunk(
    inner: ir.Model,
    file: KeepFile,
    caches: Set[str] = frozenset(),
    finish: Callable[[ir.Model], None] = lambda model: None,
) -> ir.Model:
    """A copy of a model whose ``caches`` are no outputs, and inputs as they were, without what went.

    Raises:
        ValueError, ModelError: see :func:`replay`.
    """
    model = prepare(inner, canonical=False)
    coupling = couple(model, caches=caches)
    kept = masks(coupling, file)
    there, wanted = kept_caches(coupling, kept), file.get("caches", {})
    if wrong := [name for name in sorted({*there, *wanted}) if there.get(name) != wanted.get(name)]:
        raise ValueError(f"the cache {wrong[0]} cannot be cut so in this model")
    RemoveChannels(kept, coupling).call(model)
    for name, axes in file["tensors"].items():
        if (held := model.graph.initializers.get(name)) is None:  # nobody needs it any more
            continue
        shape = held.shape
        for axis, indices in axes.items():
            if shape is None or shape[int(axis)] != len(indices):
                raise ValueError(
                    f"axis {axis} of {name} cannot be cut to {len(indices)} elements in this model"
                )
    if "removed" in file:
        return _without(model, set(file["removed"]), caches, finish)
    finish(model)
    WriteForms().call(model)
    ShareConstants().call(model)
    return model


def masks(coupling: Coupling, file: KeepFile) -> dict[int, NDArray[np.bool_]]:
    """Channels that stay, by group.

    Args:
        coupling: of a prepared model, not canonical.
        file: what stays of its initializers.

    Raises:
        ValueError: a name, a use or an index is none of the model's.
    """
    graph, kept = coupling.model.graph, dict(file["tensors"])
    if unknown := [name for name in (*kept, *file.get("uses", {})) if name not in graph.initializers]:
        raise ValueError(f"{unknown[0]} is no initializer of the model")
    nodes = {str(node.outputs[0].name): node for node in graph if node.outputs}
    for name, uses in file.get("uses", {}).items():
        for use in uses:
            node = nodes.get(use["output"])
            value = None if node is None else node_facts.input_of(node, use["input"])
            if value is None:
                raise ValueError(f"{name} is no input of the node with the output {use['output']}")
            kept[str(value.name)] = use["kept"]
    return coupling.keep_from(kept)


def _without(
    model: ir.Model, removed: Set[str], caches: Set[str], finish: Callable[[ir.Model], None]
) -> ir.Model:
    """The canonical form without branches of which nothing but one channel is left."""
    model = prepare(model)
    coupling, layers = couple(model, caches=caches), find_layers(model)[0]
    branches = find_branches(coupling, layers).values()
    gone = {name for branch in branches if removed >= set(branch.layers) for name in branch.layers}
    LeaveOut(gone)(model)
    if left := [name for name in removed if name in model.graph.initializers]:
        raise ValueError(f"{left[0]} cannot be left out of this model")
    finish(model)
    WriteForms().call(model)
    ShareConstants().call(model)
    return model
