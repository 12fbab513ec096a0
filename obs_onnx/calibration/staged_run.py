"""Carry data through a model stage by stage, each activation computed once.

``StagedRun`` holds the live values at one boundary of a :class:`~obs_onnx.passes.layers.stages.Plan` for a
whole data set and moves on by running the segment to the next boundary. What lies before a layer is therefore
never computed again, whatever is tried on that layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import onnx_ir as ir

from obs_onnx.calibration.activation_cache import ActivationCache
from obs_onnx.meter import running
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.layers.stages import Plan
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.on_device import OnDevice
from obs_onnx.runtimes.onnxruntime import OrtSession, abreast
from obs_onnx.runtimes.sessions.block_session import is_large
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["Part", "StagedRun"]


class Part:
    """A function from a batch of live values to named values of a part of a model.

    Args:
        session: of the part; None where nothing is computed.
        outputs: names of what it gives: computed, or as it came.
        computed: names of what the session is asked for.
        at_once: how many batches the session may run at once.
    """

    def __init__(
        self, session: Session | None, outputs: Sequence[str], computed: Sequence[str], at_once: int
    ) -> None:
        self._session, self._outputs, self._computed = session, list(outputs), list(computed)
        self._at_once = at_once

    def __call__(self, batch: Values) -> Values:
        """What it gives for a batch; it stays on the device of the runtime, if that has one of its own."""
        if isinstance(self._session, OrtSession) and self._session.device is not None:
            held = batch.held if isinstance(batch, OnDevice) else batch
            computed = self._session.run_bound(batch, self._computed)
            return OnDevice({**held, **computed.held}).only(self._outputs)
        known = run_feed(self._session, batch, self._computed) if self._session else {}
        return {name: known[name] if name in known else batch[name] for name in self._outputs}

    def each(self, batches: Iterable[Values]) -> Iterator[Values]:
        """What it gives for each batch, in order; the next ones run while one is looked at."""
        if self._session is None or self._at_once == 1:
            yield from map(self, batches)
            return
        ahead: deque[Future[Values]] = deque()
        with ThreadPoolExecutor(self._at_once) as pool:
            for batch in batches:
                ahead.append(pool.submit(self, batch))
                if len(ahead) > self._at_once:
                    yield _awaited(ahead.popleft())
            while ahead:
                yield _awaited(ahead.popleft())


def _some(values: Values, names: Sequence[str]) -> Values:
    """Some values, where they are."""
    return values.only(names) if isinstance(values, OnDevice) else {name: values[name] for name in names}


def _awaited(run: Future[Values]) -> Values:
    """What a run in another thread gives; this one is charged with the time until then."""
    with running():
        return run.result()


class StagedRun:
    """The live values of a data set at the current boundary.

    Args:
        runtime: where segments run.
        plan: of the model (its weights may change between steps, its structure may not).
        feeds: complete feeds of the whole model, or the live values at boundary ``index``.
        budget: bytes of activations kept in memory; the rest goes to temporary files.
        index: boundary the walk starts from; -1 before the first segment.
    """

    def __init__(
        self, runtime: Runtime, plan: Plan, feeds: Iterable[Values], budget: int, index: int = -1
    ) -> None:
        self._runtime = runtime
        self._plan = plan
        self._batches = ActivationCache(budget)
        for feed in feeds:
            self._batches.append(feed)
        self._index = index

    @property
    def index(self) -> int:
        """Boundary the walk stands at."""
        return self._index

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> Values:
        return self._batches[batch]

    def __iter__(self) -> Iterator[Values]:
        return iter(self._batches)

    def part(self, model: ir.Model, outputs: Sequence[str], inputs: Sequence[str] = ()) -> Part:
        """Function from a batch of live values (and arrays for further ``inputs``) to named values.

        Args:
            model: whose nodes and weights are used.
            outputs: names of values behind the boundary, or live ones (passed through).
            inputs: initializers, or values behind the boundary, that are fed rather than computed.
        """
        given = set(inputs) | (set(self._batches[0]) if len(self._batches) else set())
        wanted = [name for name in dict.fromkeys(outputs) if name not in given]
        session: Session | None = None
        at_once = 1
        if wanted:
            part, runtime = extract(model, [*inputs, *self._batches[0]], wanted), self._runtime
            if len(self._batches) > 1 and not is_large(model):
                runtime, at_once = abreast(runtime)
            session = open_part(runtime, part, self._batches[0])
        return Part(session, outputs, wanted, at_once)

    def step(
        self,
        model: ir.Model,
        taps: Sequence[str] = (),
        visit: Callable[[int, Values, Values], None] | None = None,
        to: int | None = None,
    ) -> None:
        """Move to the next boundary, or to a later one at once.

        Of the boundary, values are carried that ``model`` has: a smaller model needs no sizes any more where
        they became constants.

        Args:
            model: whose nodes and weights are used.
            taps: names of values in the segment (or live ones) to be shown on the way.
            visit: called for each batch with its number, the values at the boundary left behind, and the
                tapped ones.
            to: number of the boundary; by default the next one.
        """
        to = self._index + 1 if to is None else to
        held = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        target = [name for name in self._plan.boundary(to) if name in held]
        run = self.part(model, [*target, *taps])
        for number, values in enumerate(run.each(self._batches)):
            if visit is not None:
                visit(number, self._batches[number], _some(values, taps))
            self._batches.replace(number, _some(values, target))
        self._index = to
