"""Which axis of which input counts the samples: read off the arrays, because names of axes say little.

Exporters name the batch of every input anew (``unk__6``, ``unk__7``), or fix it to 1 in one of them. So an
array is compared with the shape that its input declares:

* ``SAMPLES``: as many axes, and the first one counts samples: the same number in all such arrays (with a
  batch that is fixed to B, B of them make a feed);
* ``FEEDS``: one axis more; each row is one complete value of the input, for one feed;
* ``SHARED``: the complete value itself, the same in every feed (a scalar, a table);
* ``REPEATED``: one row of an input with a batch, the same for every sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from obs_onnx.data.feeds import TensorSpec, check_shape
from obs_onnx.passes.errors import DataError

__all__ = ["BatchAxes", "Role", "Shape", "batch_axes", "common_rows", "fits"]

Shape = tuple[int, ...]
_BATCH_NAMES = ("n", "b", "bs", "batch", "samples")
_LENGTH_NAMES = ("t", "l", "s", "len")
_LENGTHS = ("seq", "length", "time", "frame", "token", "step")  # parts of names of an axis that is a length


class Role(Enum):
    """What an array is to its input; see the module."""

    SAMPLES = "samples"
    FEEDS = "feeds"
    SHARED = "shared"
    REPEATED = "repeated"


@dataclass(frozen=True)
class BatchAxes:
    """How arrays become feeds.

    Attributes:
        roles: of every input.
        count: samples, or feeds where no array counts samples.
        group: samples of one feed where ``whole``, else 1.
        whole: a feed holds exactly one group; otherwise any number of samples.
    """

    roles: Mapping[str, Role]
    count: int
    group: int = 1
    whole: bool = False

    def names(self, role: Role) -> tuple[str, ...]:
        """Inputs of a role."""
        return tuple(name for name, own in self.roles.items() if own is role)

    @property
    def samples(self) -> tuple[str, ...]:
        """Inputs whose first axis counts samples."""
        return self.names(Role.SAMPLES)

    def notes(self, where: str) -> tuple[str, ...]:
        """What of it the user should know."""
        told = {Role.SHARED: "is the same in every feed", Role.REPEATED: "is the same for every sample"}
        if not self.samples and not self.names(Role.FEEDS):
            return ()
        return tuple(
            f"{where}: array {name!r} {text}" for role, text in told.items() for name in self.names(role)
        )


@dataclass(frozen=True)
class _Array:
    """An array beside the shape that its input declares."""

    spec: TensorSpec
    shape: Shape

    @property
    def symbol(self) -> int | str | None:
        """What the model calls the first axis."""
        return self.spec.shape[0] if self.spec.shape else None

    @property
    def batch(self) -> int | None:
        """The size of the first axis, where it is fixed."""
        return self.symbol if isinstance(self.symbol, int) else None

    @property
    def size(self) -> int:
        """Of the array's first axis; 1 where it has none."""
        return self.shape[0] if self.shape else 1

    @property
    def roles(self) -> set[Role]:
        """All that the array may be by itself."""
        want, shape = self.spec.shape, self.shape
        if want is None:
            return {Role.SAMPLES, Role.SHARED} if shape else {Role.SHARED}
        fits = {
            Role.FEEDS: len(shape) == len(want) + 1 and _fits(shape[1:], want),
            Role.SAMPLES: bool(want and shape) and _fits(shape[1:], want[1:]),
            Role.SHARED: _fits(shape, want),
            Role.REPEATED: bool(want) and self.batch is None and _fits(shape, want[1:]),
        }
        return {role for role, fit in fits.items() if fit}

    @property
    def is_constant(self) -> bool:
        """Its shape is fixed, but for axes of size 1."""
        want = self.spec.shape
        return want is not None and all(
            isinstance(size, int) or have == 1 for have, size in zip(self.shape, want, strict=False)
        )

    def refuse(self, where: str) -> NoReturn:
        """Say how the array would fit."""
        check_shape(self.shape, self.spec, where, samples=self.batch is None)
        raise AssertionError(f"{self.spec} refuses {self.shape} for no reason")

    @property
    def free(self) -> bool:
        """It may count samples, as many as there are."""
        return self.batch is None and Role.SAMPLES in self.roles

    @property
    def cut(self) -> bool:
        """It holds several fixed batches."""
        return self.batch is not None and Role.SAMPLES in self.roles and Role.SHARED not in self.roles


def batch_axes(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], where: str) -> BatchAxes:
    """How arrays of the given shapes become feeds.

    Args:
        specs: the model's inputs.
        shapes: of one array per input.
        where: for messages.

    Raises:
        DataError: an array that fits in no way, or numbers of samples that do not go together.
    """
    arrays = [_Array(spec, shapes[spec.name]) for spec in specs]
    alone = not any(one.free or one.cut for one in arrays)
    for one in arrays:
        if not one.roles or (alone and one.roles == {Role.REPEATED}):
            one.refuse(where)
    stacked = [one for one in arrays if one.roles == {Role.FEEDS}]
    group = _group(arrays, where)
    count: int | None
    if stacked:
        count = _common(stacked, where) * (group or 1)
    elif group is not None:
        count = _common([one for one in arrays if one.cut], where)
    else:
        count = _counted([one for one in arrays if one.free], where)
    found = None if count is None else _assigned(arrays, stacked, group, count, where)
    if found is None or (not stacked and group is None and _may_belong_to_one(arrays, found)):
        return _one_feed(arrays, where)
    return found


def fits(spec: TensorSpec, shape: Shape) -> bool:
    """Whether an array of a shape is something to an input."""
    return bool(_Array(spec, shape).roles)


def common_rows(shapes: Mapping[str, Shape], where: str) -> int:
    """The first size of all arrays, or a DataError."""
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other[0] != shape[0]:
            raise DataError(
                f"{where}: array {first!r} has {shape[0]} samples, {name!r} has {other[0]}: make them equal"
            )
    return shape[0]


def _common(arrays: Sequence[_Array], where: str) -> int:
    return common_rows({one.spec.name: one.shape for one in arrays}, where)


def _fits(shape: Shape, want: Sequence[int | str | None]) -> bool:
    return len(shape) == len(want) and all(
        not isinstance(size, int) or size == have for have, size in zip(shape, want, strict=True)
    )


def _group(arrays: Sequence[_Array], where: str) -> int | None:
    """The fixed batch into which samples have to be grouped; None where nothing says so."""
    sizes = sorted({one.batch for one in arrays if one.cut and one.batch is not None})
    if len(sizes) > 1:
        raise DataError(
            f"{where}: the inputs take batches of {sizes[0]} and {sizes[1]}: give whole feeds, stacked along "
            "one more axis in front of each array"
        )
    return sizes[0] if sizes else None


def _counted(free: Sequence[_Array], where: str) -> int | None:
    """The number of samples, from arrays whose first axis is free; None where nothing tells.

    Raises:
        DataError: several numbers under one name of the axis.
    """
    if not free:
        return None
    several = [one for one in free if one.size != 1]
    if len({one.size for one in several}) <= 1:
        return several[0].size if several else 1
    symbols = {one.symbol for one in several} - {None}
    if len(symbols) <= 1:
        return _common(several, where)
    for symbol in sorted(map(str, symbols)):
        _common([one for one in several if one.symbol == symbol], where)
    called = [one for one in several if _is_called_batch(str(one.symbol))]
    return _common(called, where) if called else None


def _is_called_batch(symbol: str) -> bool:
    return symbol.lower() in _BATCH_NAMES or "batch" in symbol.lower()


def _is_called_length(symbol: str) -> bool:
    name = symbol.lower()
    return name in _LENGTH_NAMES or any(part in name for part in _LENGTHS)


def _may_belong_to_one(arrays: Sequence[_Array], found: BatchAxes) -> bool:
    """Whether the arrays are one graph or sequence rather than samples.

    Some array is shared and of a size of its own (the edges of a graph), and no axis is called a batch; or
    what would count the samples is the size of another axis, too (a matrix of neighbours), or all of it is
    called a length.
    """
    own = [one for one in arrays if found.roles[one.spec.name] is Role.SHARED and not one.is_constant]
    called = any(_is_called_batch(str(one.symbol)) for one in arrays if one.free)
    symbols = {one.symbol for one in arrays if found.roles[one.spec.name] is Role.SAMPLES} - {None}
    others = [
        have == found.count
        for one in arrays
        for name, have in zip((one.spec.shape or ())[1:], one.shape[1:], strict=False)
        if name in symbols and isinstance(name, str)
    ]
    lengths = bool(symbols) and all(_is_called_length(str(symbol)) for symbol in symbols)
    return (not called and (bool(own) or lengths)) or (bool(others) and all(others))


def _one_feed(arrays: Sequence[_Array], where: str) -> BatchAxes:
    """All arrays as they are make one feed: of samples, where all inputs have the same fixed batch."""
    for one in arrays:
        if Role.SHARED not in one.roles:
            one.refuse(where)
    batches = {one.batch for one in arrays}
    if len(batches) == 1 and (size := arrays[0].batch):
        return BatchAxes({one.spec.name: Role.SAMPLES for one in arrays}, size, size, whole=True)
    return BatchAxes({one.spec.name: Role.SHARED for one in arrays}, 1, whole=True)


def _assigned(
    arrays: Sequence[_Array], stacked: Sequence[_Array], group: int | None, count: int, where: str
) -> BatchAxes:
    """The role of every array, where the number of samples is known."""
    counting = [one for one in arrays if one.size == count and (one.free or one.cut)]
    symbols = {one.symbol for one in counting} - {None}
    whole = bool(stacked) or group is not None
    roles: dict[str, Role] = {}
    for one in arrays:
        single = one.size == 1 and Role.SAMPLES in one.roles
        same_batch = one.free and (not counting or one.symbol in symbols)
        if one in stacked:
            role = Role.FEEDS
        elif one in counting:
            role = Role.SAMPLES
        elif Role.REPEATED in one.roles or (single and one.symbol in symbols):
            role = Role.REPEATED
        elif Role.SHARED in one.roles and not same_batch:
            role = Role.SHARED
            # it may be a batch under another name: feeds of one sample fit both
            whole = whole or (single and (one.free or len(one.shape) > 1))
        elif group is not None and group > 1:
            raise DataError(
                f"{where}: array {one.spec.name!r} has {one.size} samples, {count // group} feeds of {group} "
                f"make {count}: make them equal"
            )
        else:
            _common([*(counting or stacked)[:1], one], where)
            one.refuse(where)
        roles[one.spec.name] = role
    return BatchAxes(roles, count, group or 1, whole)
