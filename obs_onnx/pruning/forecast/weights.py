"""What zeros will take: damage curves of layers, and solving all of them."""

from __future__ import annotations

from obs_onnx.allocation.curves import sparsity_levels
from obs_onnx.pruning.forecast.channels import checked, judged, refined
from obs_onnx.pruning.forecast.counted import Counted, Sums
from obs_onnx.pruning.forecast.forecast import Expected
from obs_onnx.pruning.forecast.solutions import solving
from obs_onnx.pruning.weights.task import WeightTask
from obs_onnx.reconstruction.layers import is_wide

__all__ = ["weight_stages"]

_STAGE = 6  # times that the nodes of the model are gone through in each stage


def layer_curves(
    counted: Counted, task: WeightTask, center: float, fit: float, test: float, levels: int, again: bool
) -> Sums:
    """Measuring the damage to each layer.

    Args:
        counted: the model.
        task: how layers are solved.
        center: sparsity around which it is measured.
        fit, test: samples.
        levels: at which each layer is measured first.
        again: around a model that is pruned already.
    """
    found, rates, walk = Sums(), counted.rates, counted.walk
    stages = counted.calibrated.dense.stages.stages
    counted.run(found, test)
    counted.steps(found, "moments", fit)
    counted.steps(found, "curves", test)
    if again:
        counted.steps(found, "curves", fit)
    counted.handle(found, "curves", _STAGE * len(stages))
    free = {layer.name for layer in task.choice.pruned} - set(task.fixed)
    refined = counted.calibrated.budget.effort.refinements
    for number, stage in enumerate(stages):
        for layer in stage.layers:
            if layer.name not in free or (one := counted.layers.get(layer.name)) is None:
                continue
            more = 0 if is_wide(layer) else refined
            measured = levels + more + again
            found.add("moments", one.moments(rates, fit, counted.batches(fit), again))
            effort = "brief" if is_wide(layer) else None
            options = task.options
            found.add("curves", one.posed(rates, True))
            for some in ([0.0] if again else [], sparsity_levels(center, levels), [center] * more):
                if some:
                    found.add("curves", solving(one, rates, some, options.method, options.pattern, effort))
            counted.run(found, test, walk.behind(number), measured)
            counted.part(found, "curves", walk.nodes_behind(number))
            found.add("curves", measured * test * rates.judge)
    return found


def solved(counted: Counted, task: WeightTask, sparsity: float, fit: float) -> Sums:
    """Solving all layers in order."""
    found, rates = Sums(), counted.rates
    counted.steps(found, "moments", fit)
    if task.options.sequential:
        counted.steps(found, "refit", fit)
    counted.handle(found, "refit", _STAGE * len(counted.walk.left))
    pruned = {layer.name for layer in task.choice.pruned}
    for layer in counted.calibrated.dense.layers:
        if (one := counted.layers.get(layer.name)) is None:
            continue
        found.add("moments", one.moments(rates, fit, counted.batches(fit), task.options.sequential))
        found.add("refit", one.posed(rates, True))
        effort = None if is_wide(layer) else "thorough"
        if layer.name in pruned:
            options = task.options
            found.add("refit", solving(one, rates, [sparsity], options.method, options.pattern, effort))
    return found


def weight_stages(
    counted: Counted, task: WeightTask, sparsity: float, tries: int, wanted: bool
) -> dict[str, Expected]:
    """All stages of a search for zeros.

    Args:
        counted: the model.
        task: how layers are solved.
        sparsity: about that of the result.
        tries: whole models that are solved, where no sparsity is wanted.
        wanted: a sparsity is.
    """
    calibrated = counted.calibrated
    data, dense, effort = calibrated.data, calibrated.dense, calibrated.budget.effort
    fit, test = data.for_damage()
    seen, there = float(fit.count or counted.batch), test.count or effort.samples
    found = dict[str, Expected]()
    again = wanted and task.is_cheap
    tries = 1 + again if wanted else tries
    if task.measures:
        free = [layer for layer in task.choice.pruned if layer.name not in task.fixed]
        levels, samples = effort.bounded(
            len(dense.layers), dense.cost.macs, len(task.model.graph), there, dense.rows
        )
        levels, samples = effort.solved_levels(levels, free), min(samples, there)
        sums = layer_curves(counted, task, sparsity, seen, samples, levels, False)
        if again:
            other = layer_curves(counted, task, sparsity, seen, samples, levels, True)
            for kind, seconds in other.seconds.items():
                sums.add(kind, seconds)
        found["measure damage"] = Expected(sums)
    count = float(data.fit.count or counted.batch)
    found["solve layers"] = Expected(solved(counted, task, sparsity, count), tries)
    if task.refine:
        found |= refined(counted, 1.0)
    found["evaluate"] = Expected(judged(counted, float(data.held_out.count or counted.batch)), tries)
    found["verify"] = Expected(checked(counted))
    return found
