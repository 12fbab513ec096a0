"""Carry data through a model stage by stage, each activation computed once.

``Walk`` holds the live values at one boundary of a :class:`~obs_onnx.passes.segments.Plan` for a whole data
set and moves on by running the segment to the next boundary. What lies before a layer is therefore never
computed again, whatever is tried on that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.activations import Activations
from obs_onnx.passes.segments import Plan, extract
from obs_onnx.runtimes.base import Runtime, Session

__all__ = ["Values", "Walk", "every_value", "open_part"]

Values = Mapping[str, NDArray[Any]]


def open_part(runtime: Runtime, part: ir.Model, fed: Values | None = None) -> Session:
    """A session for a model in memory (external tensors are read now).

    Args:
        runtime: where it runs.
        part: the model.
        fed: values that its inputs will get. Their types count where inference missed them, and their ranks
            in place of declared shapes, which exporters leave behind with the batch of a trace.
    """
    for value in part.graph.inputs:
        array = None if fed is None else fed.get(str(value.name))
        if array is not None:
            value.dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
            value.shape = ir.Shape([None] * array.ndim)
    for value in part.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return runtime.session(ir.to_proto(part).SerializeToString())


def every_value(runtime: Runtime, model: ir.Model, feed: Values) -> dict[str, NDArray[Any]]:
    """All tensors of one run of the main graph, inputs included, by name; nothing is fused away."""
    inputs = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
    values = [str(value.name) for node in model.graph for value in node.outputs if _is_tensor(value)]
    session = open_part(runtime, extract(model, inputs, values), feed)
    return {**feed, **session.run({spec.name: feed[spec.name] for spec in session.inputs})}


def _is_tensor(value: ir.Value) -> bool:
    return bool(value.name) and (value.type is None or isinstance(value.type, ir.TensorType))


class Walk:
    """The live values of a data set at the current boundary.

    Args:
        runtime: where segments run.
        plan: of the model (its weights may change between steps, its structure may not).
        feeds: complete feeds of the whole model.
        budget: bytes of activations kept in memory; the rest goes to temporary files.

    Attributes:
        index: boundary the walk stands at; -1 before the first segment.
    """

    def __init__(self, runtime: Runtime, plan: Plan, feeds: Iterable[Values], budget: int) -> None:
        self._runtime = runtime
        self._plan = plan
        self._batches = Activations(budget)
        for feed in feeds:
            self._batches.append(feed)
        self.index = -1

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> Values:
        return self._batches[batch]

    def __iter__(self) -> Iterator[Values]:
        return iter(self._batches)

    def part(
        self, model: ir.Model, outputs: Sequence[str], inputs: Sequence[str] = ()
    ) -> Callable[[Values], dict[str, NDArray[Any]]]:
        """Function from a batch of live values (and arrays for further ``inputs``) to named values.

        Args:
            model: whose nodes and weights are used.
            outputs: names of values behind the boundary, or live ones (passed through).
            inputs: initializers, or values behind the boundary, that are fed rather than computed.
        """
        given = set(inputs) | (set(self._batches[0]) if len(self._batches) else set())
        wanted = [name for name in dict.fromkeys(outputs) if name not in given]
        session: Session | None = None
        if wanted:
            part = extract(model, [*inputs, *self._batches[0]], wanted)
            session = open_part(self._runtime, part, self._batches[0])
        fed = [spec.name for spec in session.inputs] if session else []

        def run(batch: Values) -> dict[str, NDArray[Any]]:
            computed = session.run({name: batch[name] for name in fed}, wanted) if session else {}
            return {name: computed[name] if name in computed else batch[name] for name in outputs}

        return run

    def step(
        self,
        model: ir.Model,
        taps: Sequence[str] = (),
        visit: Callable[[int, Values, Values], None] | None = None,
        to: int | None = None,
    ) -> None:
        """Move to the next boundary, or to a later one at once.

        Args:
            model: whose nodes and weights are used.
            taps: names of values in the segment (or live ones) to be shown on the way.
            visit: called for each batch with its number, the values at the boundary left behind, and the
                tapped ones.
            to: number of the boundary; by default the next one.
        """
        to = self.index + 1 if to is None else to
        target = self._plan.boundary(to)
        run = self.part(model, [*target, *taps])
        for number in range(len(self._batches)):
            before = self._batches[number]
            values = run(before)
            if visit is not None:
                visit(number, before, {name: values[name] for name in taps})
            self._batches.replace(number, {name: values[name] for name in target})
        self.index = to
