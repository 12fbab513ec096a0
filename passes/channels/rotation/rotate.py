"""Weights with which a model gives the same on other axes of a group of channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.rotation.scan import Fold, Rotatable, Stays

__all__ = ["array_of", "blocks", "factors", "places", "rotate"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Arrays = Mapping[str, NDArray[np.generic]]


def array_of(coupling: Coupling, name: str) -> NDArray[np.generic]:
    """An initializer of the model."""
    found = coupling.graph.concrete.constant(coupling.named(name))
    assert found is not None
    return found


def places(coupling: Coupling, found: Rotatable, name: str, axis: int) -> dict[tuple[int, ...], Int]:
    """Elements of an axis of an initializer by block: (times, channels) each.

    A block is what has a matrix of its own: one for each combination of channels of ``found.by``.

    Raises:
        Stays: the elements of a block are not each channel equally often.
    """
    here = coupling.incidence(found.group, name, axis).tocoo()
    order = np.lexsort((here.row, here.col))
    channel, element = here.row[order], here.col[order]
    beside = []
    for one in found.by:
        other = coupling.incidence(coupling.groups[one], name, axis).tocoo()
        of = np.full(here.shape[1], -1)
        of[other.col] = other.row
        beside.append(of[element])
    keys, which = np.unique(
        np.stack([*beside, np.zeros(len(element), np.int64)], 1), axis=0, return_inverse=True
    )
    blocks = {}
    for k, block in enumerate(keys.tolist()):
        mine = which.reshape(-1) == k
        sort = np.argsort(channel[mine], kind="stable")
        counts = np.bincount(channel[mine], minlength=found.group.n)
        if (counts != counts[0]).any():
            raise Stays(f"{name} holds a part of it")
        blocks[tuple(block)] = element[mine][sort].reshape(found.group.n, -1).T.astype(np.int64)
    return blocks


def blocks(coupling: Coupling, found: Rotatable) -> list[tuple[int, ...]]:
    """All blocks of a group.

    Raises:
        Stays: the blocks of its axes are not the same.
    """
    each = [set(places(coupling, found, *site)) for site, how in found.sites.items() if not how.unit]
    if any(one != each[0] for one in each):
        raise Stays("its heads do not stand in all of its axes")
    return sorted(each[0])


def factors(found: Rotatable, fold: Fold, arrays: Arrays) -> Float:
    """(channels,) what a fold multiplies by."""
    product = np.ones(found.group.n)
    for name, power in fold:
        product *= arrays[name].reshape(-1).astype(np.float64) ** power
    return product


def rotate(
    coupling: Coupling, found: Rotatable, matrices: Mapping[tuple[int, ...], Float], arrays: Arrays
) -> dict[str, Float]:
    """Initializers with which the model gives the same, the channels of a group being ``matrix @ channels``.

    Args:
        coupling: of the model.
        found: the group.
        matrices: orthogonal, (channels, channels), for each of its :func:`blocks`; they keep the vector of
            ones where the group says so.
        arrays: all initializers that the group stands in.

    Returns:
        Those that change, in double precision.
    """
    changed = {site.initializer: arrays[site.initializer].astype(np.float64) for site in found.sites}
    for (name, axis), how in found.sites.items():
        if how.unit:
            changed[name] = np.ones_like(changed[name])
            continue
        held = np.moveaxis(changed[name], axis, 0).copy()
        factor = factors(found, how.fold, arrays)
        for block, rows_MC in places(coupling, found, name, axis).items():
            for row_C in rows_MC:
                held[row_C] = np.tensordot(matrices[block] * factor, held[row_C], (1, 0))
        changed[name] = np.moveaxis(held, 0, axis)
    return changed
