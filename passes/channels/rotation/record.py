"""The matrices of a rotated group as ``keep.json`` holds them, and the same rotation in another model."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.rotate import blocks, places, rotated_arrays
from obs_onnx.passes.channels.rotation.scan import Rotatable, Stays

__all__ = ["RotatedGroup", "record", "rotated_as"]

Float = NDArray[np.float64]
Block = tuple[int, ...]

_TYPES: Mapping[str, np.dtype[np.floating]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
_ORTHOGONAL = 1e-5  # largest difference of an element of Q Q' from the identity's


class RotatedGroup(TypedDict):
    """How a group was rotated: the new channels are ``matrix @ channels``.

    Attributes:
        initializer: of the canonical form, in which the group stands along ``axis``.
        axis: of it.
        places: elements of that axis, (blocks, times, channels).
        dtype: ``float32`` or ``float64``.
        shape: (blocks, channels, channels).
        matrices: orthogonal, one for each block: base64 of little-endian numbers, row by row.
    """

    initializer: str
    axis: int
    places: Sequence[Sequence[Sequence[int]]]
    dtype: str
    shape: Sequence[int]
    matrices: str


def record(coupling: Coupling, found: Rotatable, matrices: Mapping[Block, Float]) -> RotatedGroup:
    """What another model of the same architecture needs to be rotated likewise.

    Args:
        coupling: of the model in canonical form.
        found: the group.
        matrices: for each of its blocks. Nothing is lost: as float32 if they hold nothing else.
    """
    name, axis = next(site for site, how in found.sites.items() if not how.unit)
    here = places(coupling, found, name, axis)
    stacked = np.stack([matrices[block] for block in here])
    narrow = bool((stacked.astype(np.float32) == stacked).all())
    dtype = "float32" if narrow else "float64"
    return RotatedGroup(
        initializer=name,
        axis=axis,
        places=[rows.tolist() for rows in here.values()],
        dtype=dtype,
        shape=list(stacked.shape),
        matrices=b64encode(stacked.astype(_TYPES[dtype]).tobytes()).decode("ascii"),
    )


def rotated_as(coupling: Coupling, records: Iterable[RotatedGroup]) -> dict[str, Float]:
    """Initializers with which a model gives the same on the axes of another one of its architecture.

    Args:
        coupling: of the model in canonical form.
        records: what was rotated in the other one.

    Returns:
        Those that change, in double precision.

    Raises:
        ValueError: the model has no such group, it cannot be rotated, or the matrices are not orthogonal ones
            of its size.
    """
    return rotated_arrays(coupling, [_found(coupling, one) for one in records])


def _found(coupling: Coupling, one: RotatedGroup) -> tuple[Rotatable, dict[Block, Float]]:
    """The group of a record, and the matrix of each of its blocks."""
    if not _is_record(one):
        raise ValueError('what stands under "rotated" is not what prune writes')
    where = f"{one['initializer']}[{one['axis']}]"
    rows = {tuple(row): k for k, block in enumerate(one["places"]) for row in block}
    stays = "its channels stand in it otherwise"
    for group in coupling.groups:
        if (one["initializer"], one["axis"]) not in group.sites:
            continue
        try:
            found = rotatable(coupling, group)
            blocks(coupling, found)
            which = _blocks(coupling, found, one, rows)
        except Stays as error:
            stays = str(error)
            continue
        if which is not None:
            matrices = _matrices(one, where, group, found.keeps_ones)
            return found, {block: matrices[k] for block, k in which.items()}
    raise ValueError(f"{where} cannot be rotated in this model: {stays}")


def _is_record(one: object) -> bool:
    """Whether something has the form of a record."""
    if not isinstance(one, Mapping) or not RotatedGroup.__required_keys__ <= one.keys():
        return False
    texts = isinstance(one["initializer"], str) and isinstance(one["dtype"], str)
    blocks = one["places"]
    return (
        texts
        and isinstance(one["matrices"], str)
        and type(one["axis"]) is int
        and all(isinstance(each, list | tuple) for each in (one["shape"], blocks))
        and all(isinstance(rows, list) for rows in blocks)
        and all(isinstance(row, list) and set(map(type, row)) <= {int} for rows in blocks for row in rows)
    )


def _blocks(
    coupling: Coupling, found: Rotatable, one: RotatedGroup, rows: Mapping[tuple[int, ...], int]
) -> dict[Block, int] | None:
    """Which matrix is that of each block of the model; None if the channels stand elsewhere."""
    which, count = {}, 0
    for block, rows_MC in places(coupling, found, one["initializer"], one["axis"]).items():
        mine = {rows.get(tuple(row)) for row in rows_MC.tolist()}
        k = mine.pop()
        if k is None or mine:
            return None
        which[block], count = k, count + len(rows_MC)
    return which if count == len(rows) else None


def _matrices(one: RotatedGroup, where: str, group: Group, keeps_ones: bool) -> Float:
    """(blocks, channels, channels) the matrices.

    Raises:
        ValueError: they are not orthogonal ones of this size.
    """
    shape, dtype = (len(one["places"]), group.n, group.n), _TYPES.get(one["dtype"])
    bytes_ = 0 if dtype is None else int(np.prod(shape)) * dtype.itemsize
    if dtype is None or tuple(one["shape"]) != shape or len(one["matrices"]) != -(-bytes_ // 3) * 4:
        raise ValueError(f"the matrices of {where} are not of the size {' x '.join(map(str, shape))}")
    try:
        held = np.frombuffer(b64decode(one["matrices"], validate=True), dtype)
        found: Float = held.reshape(shape).astype(np.float64)
    except ValueError as error:
        raise ValueError(f"the matrices of {where} are damaged") from error
    with np.errstate(all="ignore"):
        off = np.abs(found @ found.swapaxes(1, 2) - np.eye(group.n)).max()
        ones = np.abs(found.sum(2) - 1).max()
    if not off <= _ORTHOGONAL:
        raise ValueError(f"the matrices of {where} are damaged: they are not orthogonal")
    if keeps_ones and not ones <= _ORTHOGONAL * np.sqrt(group.n):
        raise ValueError(
            f"the matrices of {where} do not keep the vector of ones, whose mean this model takes off"
        )
    return found
