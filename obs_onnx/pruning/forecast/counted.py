"""Work that is counted, and the seconds that it takes, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.forecast.layers import LayerWork
from obs_onnx.pruning.forecast.rates import Rates
from obs_onnx.pruning.forecast.walks import Walk

__all__ = ["Counted", "Sums", "counted"]

_PART_LOAD = 0.5  # of loading a part, to that of the whole model and its share of the nodes
_SEGMENTS = 1.15  # a run in parts, to that of the whole model


@dataclass
class Sums:
    """Seconds by kind, as :mod:`obs_onnx.meter` has them, of one shown stage.

    Attributes:
        seconds: by kind.
        peak: bytes that it takes at most, beside what the process has already.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0

    def add(self, kind: str, seconds: float) -> None:
        """Seconds of a kind."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Counted:
    """What is counted with.

    Attributes:
        calibrated: the model and its data.
        rates: of this machine.
        walk: through the model.
        layers: of the model, by name.
        small: share of a run that the model to come may take.
    """

    calibrated: Calibrated
    rates: Rates
    walk: Walk
    layers: Mapping[str, LayerWork]
    small: float

    @property
    def batch(self) -> int:
        """Samples that are run at once."""
        return self.calibrated.data.batch

    def batches(self, samples: float) -> float:
        """Of so many samples."""
        return max(1.0, samples / self.batch)

    def run(self, into: Sums, samples: float, share: float = 1.0, times: float = 1.0) -> None:
        """Run a part of the model that takes such a share of it."""
        runs = times * self.batches(samples)
        into.add("forward", times * samples * share * self.rates.sample + runs * self.rates.start)

    def part(self, into: Sums, kind: str, nodes: float, times: float = 1.0) -> None:
        """Cut out a part with such a share of the nodes, and make a session of it."""
        rates = self.rates
        into.add("sessions", times * (rates.least_load + _PART_LOAD * nodes * rates.load))
        into.add(kind, times * rates.cut * (0.5 + nodes / 2))

    def handle(self, into: Sums, kind: str, times: float) -> None:
        """Go through the nodes of the model so many times."""
        into.add(kind, times * self.rates.cut)

    def steps(self, into: Sums, kind: str, samples: float, share: float = 1.0) -> None:
        """Carry samples through the whole model, stage by stage; it takes such a share of the dense one."""
        stages, rates = len(self.walk.left) - 1, self.rates
        into.add("forward", samples * share * _SEGMENTS * rates.sample)
        into.add("forward", (stages + 1) * self.batches(samples) * rates.start)
        self.part(into, kind, 1.0 / max(stages, 1), stages + 1)
        into.add(kind, samples * math_share(share) * 4 * self.walk.crossed * rates.byte)


def math_share(share: float) -> float:
    """Of the values, where such a share of the multiply-accumulates is left."""
    return float(share**0.5)


def counted(calibrated: Calibrated, rates: Rates, small: float) -> Counted:
    """Count a calibrated model."""
    dense = calibrated.dense
    shapes = dense.cost.shapes

    def work(layer: Layer) -> LayerWork:
        return LayerWork.of(layer, shapes[layer.uses[0].x])

    layers = {layer.name: work(layer) for layer in dense.layers if layer.uses[0].x in shapes}
    return Counted(calibrated, rates, Walk.of(dense.model, dense.stages, dense.cost), layers, small)
