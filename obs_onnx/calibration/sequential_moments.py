"""Second moments of layers behind the dense prefix of a network, or behind a pruned one with dense targets.

A layer sees what the already pruned layers before it really give (``x'``) and is refitted to what the dense
model would have put out (``t``). Where its output is added to skip connections, the target includes their
error: ``t = y + (skip - skip')``.

Where the data decides how long a value is (a duration, a detection), the pruned model may give other lengths
than the dense one. No row of ``x'`` then belongs to a row of ``t``, and such a layer is posed alone: on what
the dense model gives to it, as far as the pruned one still has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.damping import cross_validated
from obs_onnx.calibration.layer_weights import bias_of, weight_of
from obs_onnx.calibration.second_moments import Moments
from obs_onnx.calibration.staged_run import StagedRun
from obs_onnx.calibration.unfold import Slice, axes_of
from obs_onnx.data.sources import Source
from obs_onnx.meter import span
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.layers.stages import Plan, Stage
from obs_onnx.passes.traits.linear import ConvGeometry
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.solvers.blas_threads import threads_for

__all__ = ["Cut", "Halved", "SequentialMoments", "halved", "one_in", "posed_of"]

_POSITIONS = 500  # for each column, that are enough for the moments of a convolution
_SAMPLES = 256  # that they are of at least

Cut = Callable[[str, NDArray[Any]], NDArray[Any]]


def _uncut(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array


def _check_finite(layer: Layer, moments: Moments) -> None:
    """Raise DataError where the inputs of a layer, or its targets, cannot be squared."""
    found = moments.raw()
    if not all(np.isfinite(array).all() for array in (found.h, moments.xt, moments.tt)):
        use = layer.uses[0]
        raise DataError(
            f"the values at layer {layer.name!r} (node {use.node!r}) are not finite for some of the "
            "calibration data, or too large to be squared: remove those samples, or scale the model"
        )


def _damping(layer: Layer, halves: tuple[Moments, Moments], model: ir.Model, least: float) -> float:
    """The damping that cross-validation chooses for a layer with the weights of ``model``."""
    with threads_for(layer.layout.goi[2]):
        posed = [half.centred() if bias_of(layer) else half.raw() for half in halves]
        return cross_validated((posed[0], posed[1]), weight_of(model, layer), least)


def posed_of(
    layer: Layer, halves: tuple[Moments, Moments], model: ir.Model, least: float, chosen: float | None = None
) -> tuple[Moments, float]:
    """Moments of all samples, in the first of two halves, and the damping that cross-validation chooses.

    Args:
        layer: which one.
        halves: its moments.
        model: holds its present weights.
        least: damping.
        chosen: damping, where it was chosen before.
    """
    best = _damping(layer, halves, model, least) if chosen is None else chosen
    halves[0].merge(halves[1])
    return halves[0], best


class Halved:
    """Some feeds of a data set that are told apart already.

    Args:
        feeds: each with the half that it belongs to.
        of: feeds of the whole data set.
    """

    def __init__(self, feeds: Sequence[tuple[int, Values]], of: int) -> None:
        self.feeds, self.of = feeds, of

    def __iter__(self) -> Iterator[Values]:
        return (feed for _, feed in self.feeds)


def halved(fit: Iterable[Values]) -> Iterator[tuple[int, Values]]:
    """Feeds, and the half that each belongs to: samples of a source are told apart, other feeds alternate."""
    if isinstance(fit, Halved):
        yield from fit.feeds
    elif isinstance(fit, Source):
        for half, feeds in enumerate(fit.halves()):
            yield from ((half, feed) for feed in feeds)
    else:
        yield from ((number % 2, feed) for number, feed in enumerate(fit))


def _step(layer: Layer, x: NDArray[Any], batches: int) -> int:
    """One in how many samples a convolution's moments are made of.

    A position of an image is an equation for the weights of an output. There are far more of them than
    weights where images are large, so some samples, evenly spaced, say what all would.

    Args:
        layer: any; others than convolutions take all samples.
        x: (N, C, *spatial) a batch of its input.
        batches: of this size.
    """
    geometry = layer.uses[0].geometry
    if not isinstance(geometry, ConvGeometry):
        return 1
    samples = batches * len(x)
    positions = samples * math.prod(axis.out for axis in axes_of(geometry, x.shape[2:]))
    return one_in(samples, positions, layer.layout.goi[2])


def one_in(samples: float, positions: float, columns: int) -> int:
    """One in how many samples is enough for a convolution, see above.

    Args:
        samples: that there are.
        positions: of them all.
        columns: of the layer.
    """
    return max(1, int(min(positions / (_POSITIONS * columns), samples / _SAMPLES)))


def _with_same_inputs(layers: Iterable[Layer], alone: Collection[str]) -> list[list[Layer]]:
    """Layers, put together where they read the same values in the same way: one moment serves them all."""
    found: dict[object, list[Layer]] = {}
    for layer in layers:
        use, (groups, rows, columns) = layer.uses[0], layer.layout.goi
        plain = len(layer.uses) == groups == 1 and rows > 1
        key = (use.x, use.geometry, columns, layer.name in alone) if plain else layer.name
        found.setdefault(key, []).append(layer)
    return list(found.values())


def _empty(layers: Sequence[Layer], targeted: bool) -> Moments:
    """For layers whose outputs stand beside each other."""
    groups, _, columns = layers[0].layout.goi
    return Moments((groups, sum(layer.layout.goi[1] for layer in layers), columns), targeted)


def _beside(targets: Sequence[NDArray[Any]], layer: Layer) -> NDArray[Any]:
    """Outputs of layers like ``layer`` beside each other."""
    geometry = layer.uses[0].geometry
    axis = 1 if isinstance(geometry, ConvGeometry) else max(geometry.output_axis, -targets[0].ndim)
    return targets[0] if len(targets) == 1 else np.concatenate(targets, axis=axis)


def _divided(gathered: dict[str, Moments], together: Iterable[Sequence[Layer]]) -> dict[str, Moments]:
    """Moments of each layer from those of several, which are taken out."""
    found = {}
    for layers in together:
        whole = gathered.pop(layers[0].name)
        with threads_for(layers[0].layout.goi[2]):
            numbers, sum_x, sum_t, xt, tt, xx = whole.arrays()
        if len(layers) == 1:
            found[layers[0].name] = whole
            continue
        end = 0
        for layer in layers:
            rows = slice(end, end := end + layer.layout.goi[1])
            own = np.array([*layer.layout.goi, *numbers[3:]], np.int64)
            parts = [sum_x, sum_t[:, rows], xt[:, :, rows], tt[:, rows], xx]
            found[layer.name] = Moments.of([own, *(array.copy() for array in parts)])
    return found


class SequentialMoments:
    """A data set behind the dense prefix, and behind the pruned one if there is a difference.

    Args:
        runtime: where everything runs.
        dense: the dense model.
        plan: its stages.
        fit: feeds, or a source of them.
        budget: bytes of activations in memory.
        paired: follow a pruned model too, whose layers get dense targets.
        cut: the part of a dense value that the pruned model still has.
        start: the pruned model, where it differs from the dense one before the first stage.
        halves: tell two halves of the samples apart, for :meth:`pose`.

    Attributes:
        alone: names of the layers so far that got other lengths in the pruned model.
    """

    def __init__(
        self,
        runtime: Runtime,
        dense: ir.Model,
        plan: Plan,
        fit: Iterable[Values],
        budget: int,
        paired: bool,
        cut: Cut = _uncut,
        start: ir.Model | None = None,
        halves: bool = False,
    ) -> None:
        self.alone: set[str] = set()
        self._dense, self._cut = dense, cut
        self._halves: list[int] | None = [] if halves else None
        self._of = fit.of if isinstance(fit, Halved) else None
        self._walk = StagedRun(runtime, plan, self._feeds(fit), budget // 2 if paired else budget)
        self._walk.step(dense)
        self._pruned: StagedRun | None = None
        if paired and start is None:
            self._pruned = StagedRun(runtime, plan, self._walk, budget // 2, self._walk.index)
        elif paired and start is not None:
            self._pruned = StagedRun(runtime, plan, self._feeds(fit), budget // 2)
            self._pruned.step(start)

    def _feeds(self, fit: Iterable[Values]) -> Iterator[Values]:
        """The feeds; to which half each of them belongs is kept."""
        if self._halves is None:
            yield from fit
            return
        self._halves.clear()
        for half, feed in halved(fit):
            self._halves.append(half)
            yield feed

    def observe(self, stage: Stage, layers: Iterable[Layer] | None = None) -> dict[str, Moments]:
        """Moments of the stage's layers; the dense walk moves on to the next boundary.

        Args:
            stage: the stage at whose boundary both walks stand.
            layers: the stage's layers as they are in the pruned model, where sizes differ.
        """
        return self._gather(stage, list(stage.layers if layers is None else layers))[0]

    def observe_halves(self, stage: Stage, layers: Iterable[Layer]) -> list[dict[str, Moments]]:
        """The same, of each half of the samples."""
        return self._gather(stage, list(layers), halved=True)

    def pass_by(self, stage: Stage, layers: Iterable[Layer] | None = None) -> None:
        """Let the dense walk move on as :meth:`observe` and :meth:`pose` do, to the same bits, unobserved."""
        self._walk.step(self._dense, self._taps(stage.layers if layers is None else layers))

    def pose(
        self,
        stage: Stage,
        layers: Iterable[Layer],
        model: ir.Model,
        damping: float,
        chosen: Mapping[str, float] | None = None,
    ) -> dict[str, tuple[Moments, float]]:
        """Like :meth:`observe`, with the damping that cross-validation chooses for each layer.

        Args:
            stage, layers: see there.
            model: holds the layers' present weights.
            damping: the least one.
            chosen: damping by layer, where it was chosen before.
        """
        layers, chosen = list(layers), {} if chosen is None else chosen
        if all(layer.name in chosen for layer in layers):
            moments = self._gather(stage, layers)[0]
            return {name: (one, chosen[name]) for name, one in moments.items()}
        first, second = self._gather(stage, layers, halved=True)
        found = {}
        for layer in layers:
            halves = first[layer.name], second.pop(layer.name)
            found[layer.name] = posed_of(layer, halves, model, damping, chosen.get(layer.name))
        return found

    def _gather(self, stage: Stage, layers: list[Layer], halved: bool = False) -> list[dict[str, Moments]]:
        """Moments of all batches, or of those of each half."""
        halves = [0] * len(self._walk)
        if halved:
            assert self._halves is not None, "made without halves"
            halves = self._halves
        targeted = self._pruned is not None
        self.alone.update(self._other_lengths(layers))
        together, steps = _with_same_inputs(layers, self.alone), dict[str, int]()
        gathered = [
            {some[0].name: _empty(some, targeted and len(some[0].uses) == 1) for some in together}
            for _ in range(1 + halved)
        ]

        def visit(number: int, before: Values, tapped: Values) -> None:
            pruned = self._pruned[number] if self._pruned else None
            for some in together:
                first, use = some[0], some[0].uses[0]
                if first.name not in steps:
                    x = tapped[use.x] if len(first.uses) > 1 else before[use.x]
                    steps[first.name] = _step(first, x, self._of or len(halves))
                into, step = gathered[halves[number]][first.name], steps[first.name]
                with threads_for(first.layout.goi[2]):
                    self._observe(stage, some, into, before, tapped, pruned, slice(None, None, step))

        with np.errstate(over="ignore", invalid="ignore"), span("moments"):
            self._walk.step(self._dense, self._taps(layers), visit)
            moments = [_divided(part, together) for part in gathered]
            for part in moments:
                for layer in layers:
                    _check_finite(layer, part[layer.name])
        return moments

    def _taps(self, layers: Iterable[Layer]) -> list[str]:
        """Values of the dense model that moments of these layers need beside those at the boundary."""
        layers = list(layers)
        shared = [use.x for layer in layers if len(layer.uses) > 1 for use in layer.uses]
        targets = [layer.uses[0].y for layer in layers if len(layer.uses) == 1]
        return list(dict.fromkeys(shared if self._pruned is None else shared + targets))

    def _observe(
        self,
        stage: Stage,
        layers: Sequence[Layer],
        moments: Moments,
        before: Values,
        tapped: Values,
        pruned: Values | None,
        some: Slice,
    ) -> None:
        """Add some samples of a batch to the moments of layers that read the same values."""
        use = layers[0].uses[0]
        if len(layers[0].uses) > 1:
            for each in layers[0].uses:
                moments.update(self._cut(each.x, tapped[each.x])[some], each.geometry)
        elif pruned is None:
            moments.update(before[use.x][some], use.geometry)
        elif layers[0].name in self.alone:
            targets = [self._cut(layer.uses[0].y, tapped[layer.uses[0].y])[some] for layer in layers]
            moments.update(self._cut(use.x, before[use.x])[some], use.geometry, _beside(targets, layers[0]))
        else:
            targets = [self._target(stage, layer.uses[0].y, before, tapped, pruned, some) for layer in layers]
            moments.update(pruned[use.x][some], use.geometry, _beside(targets, layers[0]))

    def _target(
        self, stage: Stage, y: str, before: Values, tapped: Values, pruned: Values, some: Slice
    ) -> NDArray[Any]:
        """What a layer of the pruned model should put out for some samples of a batch."""
        dense = tapped[y]
        target = self._cut(y, dense[some])
        for skip in stage.skips[y]:
            if before[skip].shape != dense.shape or skip not in pruned:
                continue
            if (kept := self._cut(skip, before[skip][some])).shape == pruned[skip][some].shape:
                target = target + (kept - pruned[skip][some])
        return target

    def _other_lengths(self, layers: Iterable[Layer]) -> set[str]:
        """Names of layers of one use that get other lengths than in the dense model for some of the data."""
        if self._pruned is None:
            return set()
        cut = cache(lambda name, shape: self._cut(name, np.broadcast_to(np.int8(0), shape)).shape)
        inputs = {layer.name: layer.uses[0].x for layer in layers if len(layer.uses) == 1}
        return {
            layer
            for layer, x in inputs.items()
            if any(
                cut(x, dense[x].shape) != pruned[x].shape
                for dense, pruned in zip(self._walk, self._pruned, strict=True)
            )
        }

    def skip(self, to: int, pruned: ir.Model) -> None:
        """Let both walks go on to the boundary before stage number ``to``; nothing on the way is observed."""
        if self._walk.index < to:
            self._walk.step(self._dense, to=to)
        if self._pruned is not None and self._pruned.index < to:
            self._pruned.step(pruned, to=to)

    def follow(self, pruned: ir.Model) -> None:
        """Let the pruned walk follow to the next boundary."""
        if self._pruned is not None:
            self._pruned.step(pruned)
