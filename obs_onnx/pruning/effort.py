"""How much measuring is done: levels, samples, trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from obs_onnx.passes.layers.layer import Layer
from obs_onnx.reconstruction.outputs import Steps

__all__ = [
    "EFFORTS",
    "LEAST_HELD_OUT",
    "LEAST_SAMPLES",
    "REFIT_SAMPLES",
    "Budget",
    "Effort",
]

LEAST_SAMPLES = 8
LEAST_HELD_OUT = 32  # samples that decide whether steps of all weights together are taken
REFIT_SAMPLES = 256  # on which a whole model is refitted to see what that mends
_FEWEST_LEVELS, _MOST_LEVELS = 2, 8
_ROWS = 16  # of scores that a sample may have and count once: words of a sentence are not alike as pixels are
_FEWER = 4  # times fewer samples of many rows, at most
_PASSES = 3  # over the model: dense, pruned, and the moments of its layers
_MACS_PER_BYTE = 40  # that are done in the time in which a byte of activations is written and read again
_FEWEST_SOLVED = 3  # sparsities at which layers are solved to measure damage
_PRODUCTS = 30  # of a layer's weights with its moments that a sparsity takes
_SECOND_SHARE = 8  # of its multiply-accumulates that an effort spends on a second look, one in so many
_HEADROOM = 5  # times its multiply-accumulates that an effort takes at most for all its levels and samples
_STEPS = (  # of all weights together, from the best to the cheapest
    Steps(steps=12, gradient=4096, curvature=2048, products=12),
    Steps(steps=4, gradient=2048, curvature=2048, products=8),
    Steps(steps=3, gradient=2048, curvature=1024, products=8),
    Steps(steps=2, gradient=2048, curvature=512, products=8),
    Steps(steps=1, gradient=2048, curvature=512, products=8),
    Steps(steps=1, gradient=1024, curvature=256, products=6),
    Steps(steps=1, gradient=512, curvature=128, products=5),
    Steps(steps=1, gradient=256, curvature=48, products=5),
    Steps(steps=1, gradient=128, curvature=32, products=4),
)
_MACS_PER_NODE = 2e7  # what it takes to set up a part of the model, as many as are done in that time


@dataclass(frozen=True)
class Effort:
    """How much measuring is done.

    Attributes:
        levels: levels at which the damage of each layer or group is measured at least.
        refinements: further levels per layer, where its curve bends.
        samples: on which the damage is measured, at most.
        macs: multiply-accumulates that measuring may take; cheap models get up to 8 levels.
        refitting: multiply-accumulates that refits of whole models may take, to see what they mend.
        refining: multiply-accumulates that steps of all weights together may take, behind the refit.
        widths: of each group at which latency is measured, a prime.
        trials: models that are pruned and measured in the search for the largest sparsity.
    """

    levels: int
    refinements: int
    samples: int
    macs: float
    refitting: float
    refining: float
    widths: int
    trials: int

    def affordable(self, parts: int, macs: int) -> float:
        """How often ``macs`` allows to measure every one of so many parts of a model with so many MACs."""
        return self.macs / max(parts * self.samples * macs, 1)

    def refits(self, times: int, macs: int, moved: int, layers: Sequence[Layer]) -> bool:
        """Whether a whole model may be refitted so many times on :data:`REFIT_SAMPLES` samples.

        Args:
            times: that it would be refitted.
            macs: multiply-accumulates of the model per sample.
            moved: bytes of all its values per sample.
            layers: that are refitted; their factorisations count.
        """
        solving = sum(float(groups) * columns**3 for groups, _, columns in (a.layout.goi for a in layers))
        once = _PASSES * REFIT_SAMPLES * (macs + _MACS_PER_BYTE * moved) + solving
        return times * once <= self.refitting

    def refines(self, macs: int, fit: int, held_out: int) -> Steps | None:
        """Steps of all weights together that are within the budget; None if there are none.

        Args:
            macs: multiply-accumulates of the pruned model per sample.
            fit, held_out: samples that there are.
        """
        return next((one for one in _STEPS if one.macs(macs, fit, held_out) <= self.refining), None)

    def solved_levels(self, levels: int, layers: Sequence[Layer]) -> int:
        """How many of so many sparsities layers are solved at to measure damage: of wide ones few.

        Args:
            levels: that measuring allows.
            layers: that are solved.
        """
        return max(min(levels, int(self.macs / max(_solving(layers), 1))), min(levels, _FEWEST_SOLVED))

    def solves_again(self, layers: Sequence[Layer]) -> bool:
        """Whether layers are solved so quickly that a second look at all of them costs little."""
        return _solving(layers) <= self.macs / _SECOND_SHARE

    def levels_for(self, parts: int, macs: int) -> int:
        """Levels per layer or group of a model with so many of them and so many multiply-accumulates."""
        return max(self.levels, min(int(self.affordable(parts, macs)), _MOST_LEVELS))

    def bounded(self, parts: int, macs: int, nodes: int, samples: int, rows: int = 1) -> tuple[int, int]:
        """Levels per part, and samples: even a huge model with many parts is measured in limited time.

        Args:
            parts: layers or groups.
            macs: multiply-accumulates of the model per sample.
            nodes: of the model.
            samples: that there are.
            rows: of class scores of a sample, one for each word of a sentence; many say more than one.
        """
        enough = max(self.samples // _FEWER, min(self.samples, self.samples * _ROWS // max(rows, 1)))
        levels, samples = self.levels_for(parts, macs), min(samples, enough)
        most = _HEADROOM * self.macs / max(parts, 1)  # for each part; half of a model lies behind it
        samples = max(min(samples, int(2 * most / levels / max(macs, 1))), min(samples, LEAST_SAMPLES))
        once = samples * macs / 2 + nodes * _MACS_PER_NODE
        return max(min(levels, int(most / once)), _FEWEST_LEVELS), samples


def _solving(layers: Sequence[Layer]) -> float:
    """Multiply-accumulates that it takes about to choose and refit the weights of layers at one sparsity."""
    shapes = (layer.layout.goi for layer in layers)
    return sum(float(_PRODUCTS * groups * rows) * columns**2 for groups, rows, columns in shapes)


@dataclass(frozen=True)
class Budget:
    """What measuring may take.

    Attributes:
        effort: how much is measured.
        activations: bytes of them that are kept in memory.
        memory: bytes to work with in all.
    """

    effort: Effort
    activations: int
    memory: int


EFFORTS = {
    "quick": Effort(
        levels=4, refinements=0, samples=128, macs=2e11, refitting=6e11, refining=0, widths=5, trials=4
    ),
    "normal": Effort(
        levels=5,
        refinements=1,
        samples=512,
        macs=2e12,
        refitting=1.2e13,
        refining=8e11,
        widths=7,
        trials=6,
    ),
    "thorough": Effort(
        levels=10,
        refinements=3,
        samples=2048,
        macs=1e14,
        refitting=3e14,
        refining=2e13,
        widths=7,
        trials=8,
    ),
}
