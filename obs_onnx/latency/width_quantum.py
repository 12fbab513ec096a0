"""The width quantum of each kind of block: in which steps of channels its latency falls.

All groups are set to a multiple of 16 channels, and then those of one kind of block to 1, 2, 4, 8 and 16
channels less. A step q is worth taking if it saves at least half of its share of what 16 channels save; the
quantum is the least such q of which all larger steps are worth taking as well. Whole models are timed for
that, in turn: alone, a block brings its data in and out in the plain layout, and what that takes hides the
steps of kernels that are used in blocks of channels inside a model.

Below one quantum its halvings may be kept, too: there is no whole step left to save, but what a layer reads
still shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from obs_onnx.allocation.channels import admissible
from obs_onnx.latency.benchmark import bench
from obs_onnx.latency.blocks import BlockClock, groups_of_blocks, narrowed
from obs_onnx.latency.cache import signature
from obs_onnx.passes.channels.coupling import Coupling, Group
from obs_onnx.passes.costs.blocks import cut_blocks
from obs_onnx.passes.costs.widths import widths_of

__all__ = ["STEPS", "group_counts", "group_quanta", "kind_quanta", "quantum_of"]

STEPS = (1, 2, 4, 8, 16)
_WHOLE = STEPS[-1]
_WIDE = 4 * _WHOLE  # where a step of 16 channels is large enough to be seen
_LEAST_SAVED = 0.05
_WORTH = 0.5
_SECONDS = 0.25  # for each model
_LEAST_COUNTS = 4  # that a group shall have to choose from


def quantum_of(times: Mapping[int, float]) -> int | None:
    """Quantum of one kind of block.

    Args:
        times: channels less -> time, for 0 and all :data:`STEPS`.

    Returns:
        None where even 16 channels save too little to tell.
    """
    whole = times[0] - times[_WHOLE]
    if whole < _LEAST_SAVED * times[0]:
        return None
    quantum = _WHOLE
    for step in reversed(STEPS[:-1]):
        if times[0] - times[step] < _WORTH * whole * step / _WHOLE:
            break
        quantum = step
    return quantum


def kind_quanta(
    clock: BlockClock, coupling: Coupling, advance: Callable[[int], None] = lambda _: None
) -> dict[str, int | None]:
    """Quantum of each kind of block of a model, None where it cannot be told.

    Args:
        clock: of the runtime.
        coupling: of the model.
        advance: called with 1 after each set of models.

    Raises:
        ModelError: a whole model cannot be loaded or run.
    """
    base = {
        group.id: min(group.n, _WIDE) // _WHOLE * _WHOLE for group in coupling.groups if group.n >= 2 * _WHOLE
    }
    meeting = groups_of_blocks(coupling)
    widths: dict[str, frozenset[int]] = {}
    for block in cut_blocks(coupling.model):
        widths[block.kind] = widths.get(block.kind, frozenset()) | (set(meeting[block.name]) & base.keys())
    found: dict[frozenset[int], int | None] = {frozenset(): None}
    for groups in widths.values():
        if groups not in found:
            found[groups] = quantum_of(_times(clock, coupling, base, groups))
            advance(1)
    return {kind: found[groups] for kind, groups in widths.items()}


def _times(
    clock: BlockClock, coupling: Coupling, base: Mapping[int, int], groups: Collection[int]
) -> dict[int, float]:
    """Channels less in ``groups`` -> time of the whole model, relative to that at the base widths."""
    plans = [base, *({**base, **{group: base[group] - step for group in groups}} for step in STEPS)]
    models = [narrowed(coupling, plan) for plan in plans]
    first, *others = (signature(model, clock.sample) for model in models)
    keys = [f"{other}/{first}" for other in others]
    if any(clock.cache.get(key) is None for key in keys):
        sessions = [clock.open(model) for model in models]
        timed = bench(sessions, clock.target, feed=clock.sample, seconds=_SECONDS, min_runs=5)
        for key, ratio in zip(keys, timed.ratios[1:], strict=True):
            clock.cache.put(key, ratio.value)
    return {0: 1.0} | {step: clock.cache.get(key) or 1.0 for step, key in zip(STEPS, keys, strict=True)}


def group_quanta(
    coupling: Coupling, kinds: Mapping[str, int | None], default: int, wanted: int | None = None
) -> dict[int, int]:
    """What the kept count of each group is a multiple of.

    The largest quantum of the blocks that it stands in, halved until the group has at least four counts.

    Args:
        coupling: of the model.
        kinds: quantum of each kind of block.
        default: where none is known.
        wanted: what the widths of all layers shall be multiples of.
    """
    if wanted is not None:
        return dict(widths_of(coupling, wanted).steps)
    found = {group.id: 0 for group in coupling.groups}
    meeting = groups_of_blocks(coupling)
    for block in cut_blocks(coupling.model):
        for number in meeting[block.name]:
            found[number] = max(found[number], kinds.get(block.kind) or 0)
    for group in coupling.groups:
        found[group.id] = found[group.id] or default
        while found[group.id] > 1 and group.n < _LEAST_COUNTS * found[group.id]:
            found[group.id] //= 2
    return found


def group_counts(coupling: Coupling, quanta: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Counts that each group may keep: multiples of its quantum, and its halvings down to 2.

    Whole steps are what pays where a group is wide; below one step every channel less saves something, in
    what is read if not in what is computed.
    """
    found = {}
    for group in coupling.groups:
        quantum = quanta[group.id]
        halves = {quantum >> times for times in range(1, quantum.bit_length() - 1)}
        found[group.id] = tuple(sorted({n for n in halves if n < group.n} | set(_multiples(group, quantum))))
    return found


def _multiples(group: Group, quantum: int) -> list[int]:
    counts: list[int] = admissible(group.n, quantum).tolist()
    return counts
