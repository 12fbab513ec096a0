"""Models compared with the same decisions and random numbers: those of the one of full size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.channels.coupling import Coupling, Keep
from obs_onnx.passes.errors import ModelError, VerificationError
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names, real_inputs
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed
from obs_onnx.verification.decisions import Decision, Forms, Place, behind, deciding_nodes, in_all
from obs_onnx.verification.distance import norm, refusal, relative, tolerance_of

__all__ = ["NOISE", "Compared", "Kept", "compare_fed"]

NOISE = 0.1  # of the tolerance: what a value of one model differs by from run to run when it is random


class Kept:
    """Cuts values of the dense model to the channels that stay.

    Args:
        coupling: of the dense model.
        keep: channels that stay.
        feed: whose sizes count where the axes of a value depend on them.
        like: values that are cut as another one is, by name: caches that come out as those that go in.
    """

    def __init__(
        self, coupling: Coupling, keep: Keep, feed: Values, like: Mapping[str, str] | None = None
    ) -> None:
        self._coupling, self._keep, self._feed, self._like = coupling, keep, feed, like or {}
        self._cut = _Cut(coupling, keep)

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any] | None:
        """The part of ``array`` that stays; None where the value is known with other sizes only."""
        name = self._like.get(name, name)
        part = self._cut(name, array)
        return self._sized(name, array) if part is None else part

    def cache(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """The part of a cache that stays; any other value as it is."""
        part = self(name, array) if name in self._like else None
        return array if part is None else part

    @cached_property
    def _sized(self) -> _Cut:
        """For the sizes that are fed."""
        model = self._coupling.model.clone()
        for value in real_inputs(model):
            value.shape = ir.Shape(self._feed[str(value.name)].shape)
        sized = self._coupling.of(model)
        return _Cut(sized, sized.keep_from(self._coupling.keep_indices(self._keep)))


class _Cut:
    def __init__(self, coupling: Coupling, keep: Keep) -> None:
        self._coupling, self._alive = coupling, coupling.alive(keep)
        self._values = {str(value.name): value for value in coupling.graph.labels}

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any] | None:
        axes = self._coupling.axes(self._values[name]) if name in self._values else None
        for axis, labels in enumerate(axes or ()):
            if not (stays := self._alive(labels)).all():
                if axis >= array.ndim or len(stays) != array.shape[axis]:
                    return None
                array = array.compress(stays, axis=axis)
        return array


@dataclass
class Compared:
    """Outputs of models with the same decisions.

    Attributes:
        differences: relative ones, of those that were compared.
        left_out: the others, with the reason.
    """

    differences: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, found: float | str) -> None:
        """A difference, or the reason why there is none, which is final."""
        if isinstance(found, str):
            self.differences.pop(name, None)
            self.left_out.setdefault(name, found)
        elif name not in self.left_out:
            self.differences[name] = found


def compare_fed(
    runtime: Runtime, forms: Forms, kept: Kept, feed: Values, outputs: Collection[str], tolerance: float
) -> Compared:
    """Compare with the decisions and random numbers of the silenced model in all.

    Outputs, and what decisions rest on, must agree; and on equal numbers the decisions must be the same.

    Args:
        runtime: where they run.
        forms: the models.
        kept: which part of a value the small model has.
        feed: the inputs of all.
        outputs: to be compared.
        tolerance: largest relative difference that is allowed.

    Raises:
        VerificationError: they are not.
    """
    taken = _take_decisions(runtime, forms, kept, feed)
    decisions, result = taken.fed.values(), Compared()
    ends = {name: Place(name, name, name) for name in outputs if name not in taken.silenced.given}
    places = dict.fromkeys([*ends.values(), *(place for one in decisions for place in one.reads)])
    runs = _Runs(taken, kept, tolerance, tuple(places))
    for name, place in ends.items():
        result.take(name, runs.judge(place, f"output {name}"))
    unproven: dict[ir.Node, str] = {}
    for node, decision in taken.fed.items():
        what = f"what {decision} takes"
        for place in decision.reads:
            if isinstance(reason := runs.judge(place, what), str):
                unproven[node] = f"follows from {decision}: what it takes {reason}"
    for group in _apart([one for node, one in taken.fed.items() if node not in unproven and not one.random]):
        for name, off in runs.repeat(group).items():
            result.take(name, off)
    for decision in decisions:
        for name in decision.outputs:
            if decision.random:
                result.take(name, f"is drawn at random by {decision}")
    for node, reason in unproven.items():
        for name in behind(forms.silenced, [node]):
            result.take(name, reason)
    return Compared(
        {name: result.differences[name] for name in outputs if name in result.differences},
        {name: result.left_out[name] for name in outputs if name in result.left_out},
    )


@dataclass(frozen=True)
class _Form:
    """One of the models, and values of it that are given."""

    runtime: Runtime
    model: ir.Model
    given: Values

    def values(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Those of ``names``, and all that are given."""
        wanted = [name for name in dict.fromkeys(names) if name not in self.given]
        if not wanted:
            return dict(self.given)
        session = open_part(self.runtime, extract(self.model, self.given, wanted), self.given)
        return {**self.given, **run_feed(session, self.given)}


@dataclass(frozen=True)
class _Taken:
    """The models with the decisions of the silenced one.

    Attributes:
        feed: inputs of all.
        dense, silenced, small: each with its inputs and decisions.
        fed: decisions that are given.
        unfed: those that cannot be given.
        loose: names of values of the silenced model that follow from these.
    """

    feed: Values
    dense: _Form
    silenced: _Form
    small: _Form
    fed: Mapping[ir.Node, Decision]
    unfed: Sequence[ir.Node]
    loose: Collection[str]


def _take_decisions(runtime: Runtime, forms: Forms, kept: Kept, feed: Values) -> _Taken:
    """Run the silenced model, and give what it decided and drew to all."""
    inputs = {name: feed[name] for name in input_names(forms.silenced)}
    nodes = deciding_nodes(forms.silenced)
    decisions = dict(zip(nodes, in_all(nodes, forms), strict=True))
    names = [name for decision in decisions.values() if decision for name in decision.outputs]
    values = _Form(runtime, forms.silenced, inputs).values(names)
    cut = {name: part for name in names if (part := kept(name, values[name])) is not None}
    fed = {
        node: decision
        for node, decision in decisions.items()
        if decision and all(name in cut for name in decision.outputs)
    }
    names = [name for decision in fed.values() for name in decision.outputs]
    whole = {**inputs, **{name: values[name] for name in names}}
    unfed = [node for node in nodes if node not in fed]
    return _Taken(
        inputs,
        _Form(runtime, forms.dense, whole),
        _Form(runtime, forms.silenced, whole),
        _Form(runtime, forms.small, {**inputs, **{name: cut[name] for name in names}}),
        fed,
        unfed,
        behind(forms.silenced, unfed, cut=fed),
    )


class _Runs:
    """What the models give with equal decisions.

    Args:
        taken: the models.
        kept: which part of a value the small model has.
        tolerance: largest relative difference that is allowed.
        places: values that are compared.

    Raises:
        VerificationError: the small model does not run.
    """

    def __init__(self, taken: _Taken, kept: Kept, tolerance: float, places: Collection[Place]) -> None:
        self._taken, self._kept, self._tolerance, self._places = taken, kept, tolerance, places
        dense = taken.dense.values(place.dense for place in places)
        parts = {place: kept(place.dense, dense[place.dense]) for place in places}
        self._scales = {place: norm(part) for place, part in parts.items() if part is not None}
        self._whole = self._silenced()
        try:
            self._found = taken.small.values(place.small for place in places)
        except ModelError as error:
            raise VerificationError(
                f"the smaller model does not run with the decisions of the dense one: {error}"
            ) from error

    def judge(self, place: Place, what: str) -> float | str:
        """Relative difference at a place, or why it says nothing.

        Raises:
            VerificationError: it is larger than allowed.
        """
        expected = self._kept(place.dense, self._whole[place.silenced])
        if expected is None or place not in self._scales:
            return "is known with other sizes only"
        found, scale = self._found[place.small], self._scales[place]
        off = relative(found, expected, scale)
        if off <= max(self._tolerance, tolerance_of(expected)):
            return off
        if place.silenced in self._taken.loose:
            nodes = ", ".join(str(node.name) for node in self._taken.unfed)
            return f"follows from decisions that cannot be fed ({nodes})"
        if (
            not relative(self._again[place.silenced], self._whole[place.silenced], 0.0)
            <= NOISE * self._tolerance
        ):
            return "differs from run to run"
        raise refusal(what, found, expected, off)

    def repeat(self, group: Sequence[Decision]) -> dict[str, float | str]:
        """Differences of what decisions of both models make of the numbers of the silenced one.

        Raises:
            VerificationError: they are larger than allowed.
        """
        taken, names = self._taken, [name for decision in group for name in decision.outputs]
        whole, part = dict(taken.feed), dict(taken.feed)
        for place in (place for decision in group for place in decision.reads):
            whole[place.silenced] = self._whole[place.silenced]
            if (cut := self._kept(place.dense, whole[place.silenced])) is not None:
                part[place.small] = cut
        first = replace(taken.silenced, given=whole).values(names)
        second = replace(taken.small, given=part).values(names)
        found: dict[str, float | str] = {}
        for decision in group:
            for name in decision.outputs:
                expected = self._kept(name, first[name])
                assert expected is not None  # it was fed
                found[name] = off = relative(second[name], expected, 0.0)
                if off <= self._tolerance:
                    continue
                again = replace(taken.silenced, given=whole).values([name])
                if relative(again[name], first[name], 0.0) <= NOISE * self._tolerance:
                    raise VerificationError(
                        f"{decision} decides otherwise in the smaller model on equal numbers"
                    )
                found[name] = "differs from run to run"
        return found

    @cached_property
    def _again(self) -> dict[str, NDArray[Any]]:
        return self._silenced()

    def _silenced(self) -> dict[str, NDArray[Any]]:
        return self._taken.silenced.values(place.silenced for place in self._places)


def _apart(decisions: Iterable[Decision]) -> list[list[Decision]]:
    """Groups of decisions, none of which reads the result of another one of its group."""
    groups: list[list[Decision]] = []
    for decision in decisions:
        apart = (group for group in groups if not any(_linked(decision, other) for other in group))
        if (group := next(apart, None)) is None:
            groups.append(group := [])
        group.append(decision)
    return groups


def _linked(one: Decision, other: Decision) -> bool:
    """Whether one reads a result of the other."""
    return any(
        name in made.outputs
        for made, reading in ((one, other), (other, one))
        for place in reading.reads
        for name in place
    )
