"""What removing channels will take: damage curves of groups, the refit, and the checks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.places import standing
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.effort import LEAST_HELD_OUT
from obs_onnx.pruning.forecast.counted import Counted, Sums
from obs_onnx.pruning.forecast.forecast import Expected
from obs_onnx.reconstruction.channel_curves import is_clean, starts
from obs_onnx.reconstruction.channels import is_depthwise
from obs_onnx.runtimes.sessions.block_session import is_large
from obs_onnx.runtimes.sessions.partial_run import every_value

__all__ = ["channel_stages", "checked", "idle_groups", "judged", "refined"]

_CHECKED = 8  # runs of the first batch, and sessions, for the proof
_SEARCHED, _VERIFIED, _REFITTED, _STAGE = (
    140,
    130,
    60,
    8,
)  # times that the nodes of the model are gone through


def searched(counted: Counted) -> Sums:
    """Sharing out what goes, and what that costs."""
    found = Sums()
    counted.run(found, counted.batch, 1.0, 2)
    counted.handle(found, "search", _SEARCHED)
    return found


def curves(
    counted: Counted, evidence: ChannelStatistics, fit: float, test: float, levels: int, idle: Collection[int]
) -> Sums:
    """Measuring the damage to each group.

    Args:
        counted: the model.
        evidence: its channels.
        fit, test: samples.
        levels: at which each group is measured.
        idle: groups with channels that may change nothing; how many do is found by halving.
    """
    found, rates, walk = Sums(), counted.rates, counted.walk
    plan = counted.calibrated.dense.stages
    counted.run(found, test)  # what the dense model gives
    counted.steps(found, "moments", fit)
    counted.steps(found, "curves", test)
    names = {one.layer.name for group in evidence.coupling.groups for one in evidence.consumers(group)}
    for name in names & set(counted.layers):
        read = counted.layers[name]
        found.add("moments", read.moments(rates, fit, counted.batches(fit), False, 2) + read.damping(rates))
    for group in evidence.coupling.groups:
        reading = evidence.consumers(group)
        start = starts(plan, evidence.coupling, group, reading)
        counted.run(found, test, walk.behind(start), levels + _halvings(group.n, levels, group.id in idle))
        found.add("curves", levels * test * rates.judge)
        sessions = 1 if is_clean(evidence.coupling, group, reading) else levels
        counted.part(found, "curves", walk.nodes_behind(start), sessions)
        for consumption in reading:
            if (one := counted.layers.get(consumption.layer.name)) is None:
                continue
            found.add("curves", one.posed(rates, True) + one.ordered(rates, group.n))
            each = sum(one.without(rates, 0.08 + 0.84 * i / max(levels - 1, 1)) for i in range(levels))
            found.add("curves", each)
    return found


def _halvings(channels: int, levels: int, idle: bool) -> float:
    return 1 + math.log2(max(channels / levels, 1)) if idle else 0.0


def refit(counted: Counted, fit: float, depthwise: Mapping[str, bool], chosen: bool) -> Sums:
    """Removing channels for good, and refitting what is left."""
    found, rates = Sums(), counted.rates
    counted.steps(found, "moments", fit)
    counted.steps(found, "refit", fit, counted.small)
    counted.handle(found, "refit", _REFITTED + _STAGE * len(counted.walk.left))
    for name, work in counted.layers.items():
        if depthwise[name]:
            continue
        one = work.smaller(counted.small)
        found.add("moments", one.moments(rates, fit, counted.batches(fit), True, 2))
        found.add("moments", 0.0 if chosen else one.damping(rates))
        found.add("refit", one.posed(rates, False))
    return found


def judged(counted: Counted, held_out: float) -> Sums:
    """Measuring the smaller model on held-out data."""
    found = Sums()
    counted.run(found, held_out, 1 + counted.small)
    counted.part(found, "verify", 1.0)
    found.add("verify", 3 * held_out * counted.rates.judge)
    return found


def checked(counted: Counted) -> Sums:
    """The promises of the result."""
    found = Sums()
    counted.run(found, counted.batch, 1.0, _CHECKED)
    counted.part(found, "verify", 1.0, _CHECKED)
    counted.handle(found, "verify", _VERIFIED)
    return found


def refined(counted: Counted, share: float) -> dict[str, Expected]:
    """Steps of all weights together, of a model that takes such a share of a run; none beyond the budget."""
    dense, data = counted.calibrated.dense, counted.calibrated.data
    fit, held_out = data.fit.count or 0, data.held_out.count or 0
    steps = counted.calibrated.budget.effort.refines(int(share * dense.cost.macs), fit, held_out)
    if steps is None or held_out < LEAST_HELD_OUT:
        return {}
    found = Sums()
    counted.run(found, steps.macs(1, fit, held_out), share)
    return {"refine": Expected(found)}


def idle_groups(calibrated: Calibrated, evidence: ChannelStatistics) -> set[int]:
    """Groups of which some channel is the same all over some samples, wherever it is read."""
    data, dense = calibrated.data, calibrated.dense
    if is_large(dense.model):
        return set()
    feed, coupling, found = data.first, evidence.coupling, set[int]()
    values = every_value(dense.runtime, dense.model, feed)
    for group in coupling.groups:
        read = {use.x for one in evidence.consumers(group) for use in one.layer.uses}
        places = [(name, axis) for name in read for axis in standing(coupling, group, name)]
        moving = np.zeros(group.n)
        for name, axis in places:
            apart = np.moveaxis(values[name], axis, 0).reshape(values[name].shape[axis], -1)
            moving += coupling.incidence(group, name, axis) @ (np.ptp(apart, axis=1) > 0)
        if places and (moving == 0).any():
            found.add(group.id)
    return found


def channel_stages(
    counted: Counted, evidence: ChannelStatistics, idle: Collection[int], levels: int, test: int, tries: float
) -> dict[str, Expected]:
    """All stages of a search for channels.

    Args:
        counted: the model.
        evidence: its channels.
        idle: see :func:`curves`.
        levels: at which each group is measured; 0 where none is.
        test: samples on which that is done.
        tries: whole models that are refitted.
    """
    data, dense = counted.calibrated.data, counted.calibrated.dense
    fit = float(data.fit.count or counted.batch)
    held_out = float(data.held_out.count or counted.batch)
    depthwise = {layer.name: is_depthwise(layer) for layer in dense.layers}
    found = {"find redundant channels": Expected(searched(counted))}
    if levels:
        seen = float(data.for_damage()[0].count or fit)
        found["measure damage"] = Expected(curves(counted, evidence, seen, test, levels, idle))
    found["remove and refit"] = Expected(refit(counted, fit, depthwise, tries > 1), tries)
    found["evaluate"] = Expected(judged(counted, held_out), tries)
    found["verify"] = Expected(checked(counted))
    return found
