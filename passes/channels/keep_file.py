"""What was removed, in terms of the initializers of the model that came in: the contents of ``keep.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from obs_onnx.passes.canonical.own_constants import COPY_OF, prepare
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels

__all__ = ["keep_file", "replay"]

Tensors = Mapping[str, Mapping[str, Sequence[int]]]


def keep_file(
    original: ir.Model, coupling: Coupling, keep: Keep, removed: Sequence[str] = ()
) -> dict[str, object]:
    """``{"schema": 1, "tensors": {initializer: {axis: kept indices}}}`` for the initializers of ``original``.

    With ``removed`` the key of that name lists initializers that are gone altogether.

    Args:
        original: the model as it came in (constants of nodes count as initializers, named after the output).
        coupling: of its prepared form.
        keep: for the groups of ``coupling``.
        removed: names of initializers of that form that the smaller model lacks.

    A constant that serves several nodes is left out where they keep different parts of it.
    """
    raw = couple(prepare(original, canonical=False))
    kept = raw.keep_indices(coupling.same_in(raw, keep))
    names: dict[str, list[str]] = {}
    for value in raw.model.graph.initializers.values():
        names.setdefault(str(value.meta.get(COPY_OF, value.name)), []).append(str(value.name))
    tensors = {
        name: kept[copies[0]]
        for name, copies in names.items()
        if copies[0] in kept and all(kept.get(copy) == kept[copies[0]] for copy in copies)
    }
    gone = [name for name, copies in names.items() if set(copies) & set(removed)]
    return {"schema": 1, "tensors": tensors, **({"removed": gone} if gone else {})}


def replay(original: ir.Model, tensors: Tensors) -> ir.Model:
    """A copy of ``original`` without what ``tensors`` (of a :func:`keep_file`) leaves out.

    Raises:
        ValueError: nothing would be left of some axis.
        ModelError: the model is broken.
    """
    model = prepare(original, canonical=False)
    coupling = couple(model)
    RemoveChannels(coupling.keep_from(tensors), coupling).call(model)
    return model
