"""Costs of smaller models, relative to those of the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from obs_onnx.allocation.amounts import Amount, Unit
from obs_onnx.allocation.costs import Measured
from obs_onnx.allocation.targets import SIZE, Target, Targets, costs
from obs_onnx.evaluation.run_cost import measured
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency import Stopwatch
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.pruning.calibrated import DenseModel
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.runtimes.tool import Tool, ToolCosts
from obs_onnx.verification.front import Front

__all__ = ["DenseCosts"]


@dataclass(frozen=True)
class DenseCosts:
    """The dense model as the measure of what smaller ones cost.

    What counts in runs is that of the part that is measured; what counts in files is that of all of it.

    Attributes:
        dense: the model.
        front: where it was cut.
        sample: that runs are counted on.
        file_bytes: size of its file.
        stopwatch: times models where latency is wanted.
        tool: tells costs, if one does.
    """

    dense: DenseModel
    front: Front
    sample: Values
    file_bytes: int
    stopwatch: Stopwatch | None
    tool: Tool | None = None

    @cached_property
    def measured(self) -> Measured:
        """The dense model as it came in, whose figures people compare with."""
        told = self._told(self.front.original)
        return Measured(
            self.front.original, self.dense.cost, self.file_bytes, self.stopwatch, ram_bytes=told.ram_bytes
        )

    def _told(self, model: ir.Model) -> ToolCosts:
        """What the tool says of a whole model; nothing where there is none."""
        return ToolCosts() if self.tool is None else self.tool.costs(serialize(model))

    @cached_property
    def _flash(self) -> float:
        """Bytes by the tool for each byte of a file, of the dense model; 1 where it tells none.

        Predictions count bytes of files: what the tool says is reckoned in these.
        """
        flash = self._told(self.front.original).flash_bytes
        return 1.0 if flash is None else flash / self.file_bytes

    def _unit(self, target: Target) -> float:
        """What one unit of a cost, as it is reckoned, is in the unit that limits are given in."""
        return self._flash if target is SIZE else 1.0

    def whole(self, target: Target) -> float:
        """What the dense model costs, as that is reckoned: 1, or a number in the unit of the cost."""
        return target.model_cost.measure(self.measured) if target.additive else 1.0

    def in_front(self, target: Target, limit: float) -> float:
        """What share of its own cost the front may have for a share of the whole model's."""
        if self.front.cut is None or target.additive or target.timed:
            return limit
        front = Measured(self.dense.model, self.dense.cost)
        part = target.model_cost.measure(front) / (target.model_cost.measure(self.measured) or 1)
        return max(1 - (1 - limit) / (part or 1), 0.0)

    def limits(self, targets: Targets) -> dict[str, float]:
        """Limits on costs, as they are reckoned: shares of the dense model's, or in the unit of the cost."""
        return {
            one.name: self._limit(one, amount)
            for one, amount in targets
            if one.cost and amount.unit is not Unit.LEAST
        }

    def _limit(self, target: Target, amount: Amount) -> float:
        if amount.unit is Unit.SHARE:
            return amount.value * self.whole(target)
        if target.additive:
            return amount.value / self._unit(target)
        return amount.value / (target.model_cost.measure(self.measured) or 1)

    def amount(self, target: Target, unit: Unit, cost: float) -> float | str:
        """A cost, as it is reckoned, in a unit that a limit on it may be given in."""
        if unit is Unit.SHARE:
            return Amount(cost / self.whole(target)).plain
        value = (
            cost * self._unit(target) if target.additive else cost * target.model_cost.measure(self.measured)
        )
        return Amount(round(value) if unit is Unit.BYTES else value, unit).plain

    def of(self, small: ir.Model) -> dict[str, float]:
        """What a smaller model really costs, as that is reckoned."""
        dense, small = self.measured, written_form(small)
        run, whole = measured(self.dense.runtime, small, self.sample), self.front.complete(small)
        told = self._told(whole)
        found = Measured(
            whole,
            run,
            file_bytes=None if told.flash_bytes is None else round(told.flash_bytes / self._flash),
            timed=whole if self.front.runs else small,
            ram_bytes=told.ram_bytes,
        )
        return {
            name: one.model_cost.measure(found) if one.additive else one.model_cost.share(found, dense)
            for name, one in costs().items()
            if self.stopwatch is not None or not one.timed
        }
