"""How fast this machine is now: seconds of the units that a run's work is counted in, measured in a
moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from scipy.linalg import lapack

from obs_onnx.calibration.unfold import transposed
from obs_onnx.data.feeds import Feed
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.sessions.block_session import is_large, is_weighty
from obs_onnx.runtimes.sessions.partial_run import Values, open_part
from obs_onnx.solvers.blas_threads import threads_for

__all__ = ["Rates", "measure_rates"]

_SIZES = (16, 64, 256, 1024)  # rows of products, and of matrices that are factorised
_INNER, _ELEMENTS = 2048, 1 << 18  # numbers that are summed in a product, and in all of its rows
_BYTES = 1 << 23  # that are moved, more than a cache holds
_SAMPLES = 16  # that are run at most
_CALLS = 64
_IMAGES, _CHANNELS, _PIXELS = 16, 32, 16  # of an input that is taken in
_ENOUGH = 0.02  # seconds of measuring, after which nothing is measured again
_TIMES = 5  # that something is measured at most


@dataclass(frozen=True)
class Rates:
    """Seconds of a unit of each kind of work.

    Attributes:
        sample: a run of the whole model, for each sample of a batch.
        start: a run of a session on next to nothing.
        load: a session of the whole model.
        least_load: of next to nothing.
        cut: cutting a part out of the model.
        judge: comparing the outputs for a sample.
        byte: moving a byte.
        gather: taking in a byte of a layer's input: sums, squares, another order.
        call: a small operation on arrays.
        products: of a multiply-accumulate in float32, by the rows of a product.
        factors: of one in float64 where a matrix is factorised, by its rows.
    """

    sample: float
    start: float
    load: float
    least_load: float
    cut: float
    judge: float
    byte: float
    gather: float
    call: float
    products: Sequence[float]
    factors: Sequence[float]

    def product(self, rows: float) -> float:
        """Of a multiply-accumulate of a product with so many rows and columns."""
        return _between(rows, self.products)

    def exact(self, rows: float) -> float:
        """The same in float64."""
        return 2 * self.product(rows)

    def factor(self, rows: float) -> float:
        """Of a multiply-accumulate where a matrix of so many rows is factorised.

        That is done by blocks: the larger the matrix, the more of the work is products.
        """
        found, least = _between(rows, self.factors), self.exact(rows)
        return max(least, least + (found - least) * min(_SIZES[-1] / max(rows, 1), 1.0))


def _between(rows: float, seconds: Sequence[float]) -> float:
    at = np.interp(np.log(max(rows, 1)), np.log(_SIZES), np.log(seconds))
    return float(np.exp(at))


def measure_rates(calibrated: Calibrated) -> tuple[Rates, Rates]:
    """Rates of the clock on the wall, and of the time of all cores.

    Args:
        calibrated: the model, whose first batch of held-out data is run.
    """
    dense = calibrated.dense
    data = calibrated.data
    feed = next(iter(data.held_out.rebatch(min(data.batch, _SAMPLES))))
    samples = max((array.shape[0] for array in feed.values() if array.ndim), default=1)
    answers = list[Values]()
    first = _each(lambda: answers.append(dense.session.run(feed)), samples, 1)
    answer = answers[0]
    outputs = [name for name in dense.stages.outputs if name in answer]

    def judge() -> None:
        Damage(dense.yardstick, outputs).update(answer, answer)

    small = _Small.of(dense.runtime)
    measured = {
        "sample": first if is_large(dense.model) else _each(lambda: dense.session.run(feed), samples),
        "start": _each(small.run, 1),
        "load": _load(dense.runtime, dense.model, feed),
        "least_load": _each(small.load, 1),
        "cut": _each(lambda: extract(dense.model, input_names(dense.model), outputs), 1),
        "judge": _each(judge, samples),
        **_arrays(),
    }
    products, factors = ([_rate(size) for size in _SIZES] for _rate in (_product, _factor))
    wall, cpu = (
        Rates(
            **{name: pair[which] for name, pair in measured.items()},
            products=[pair[which] for pair in products],
            factors=[pair[which] for pair in factors],
        )
        for which in (0, 1)
    )
    return wall, cpu


def _each(work: Callable[[], object], units: float, times: int = _TIMES) -> tuple[float, float]:
    """Least seconds of a unit of work, by both clocks, of so many times at most."""
    found, spent = list[tuple[float, float]](), 0.0
    while len(found) < times and (spent < _ENOUGH or not found):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
        spent += found[-1][1] or found[-1][0]
    return min(one for one, _ in found) / units, min(one for _, one in found) / units


def _load(runtime: Runtime, model: ir.Model, feed: Values) -> tuple[float, float]:
    """Of a session of the whole model; one of a large model is mapped."""
    if is_weighty(model):
        return 0.0, 0.0
    names = [str(value.name) for value in model.graph.outputs]
    part = extract(model, input_names(model), names)
    return _each(lambda: open_part(runtime, part, feed), 1)


@dataclass(frozen=True)
class _Small:
    """A model that does next to nothing."""

    runtime: Runtime
    content: bytes
    feed: Feed

    @classmethod
    def of(cls, runtime: Runtime) -> _Small:
        given = ir.val("x", ir.DataType.FLOAT, ir.Shape([1]))
        node = ir.node("Neg", [given])
        node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape([1])
        graph = ir.Graph([given], node.outputs, nodes=[node], opset_imports={"": 17})
        content = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
        return cls(runtime, content, {"x": np.zeros(1, np.float32)})

    def load(self) -> None:
        self.runtime.session(self.content)

    @property
    def run(self) -> Callable[[], object]:
        session = self.runtime.session(self.content)
        return lambda: session.run(self.feed)


def _arrays() -> dict[str, tuple[float, float]]:
    """Of bytes that are moved, and of small operations."""
    np.ones(2 * _BYTES, np.uint8)  # an allocator keeps what it gave once
    array, into = np.ones(_BYTES // 4, np.float32), np.zeros(_BYTES // 4, np.float32)
    few, one = np.ones((4, 4), np.float32), np.zeros((4, 4))

    def calls() -> None:
        for _ in range(_CALLS):
            np.add(one, few @ few.T, out=one)

    image = np.ones((_IMAGES, _CHANNELS, _PIXELS, _PIXELS), np.float32)

    def gather() -> None:
        flat = image.reshape(_IMAGES, _CHANNELS, -1)
        image.sum(axis=0, dtype=np.float64)
        np.einsum("ncs,ncs->c", flat, flat)
        transposed(image, 1).sum(axis=2, dtype=np.float64)

    return {
        "byte": _each(lambda: np.multiply(array, 2.0, out=into), 2 * _BYTES),
        "gather": _each(gather, image.nbytes),
        "call": _each(calls, 2 * _CALLS),
    }


def _product(size: int) -> tuple[float, float]:
    inner = min(_INNER, _ELEMENTS // size)
    left, right = np.ones((2, size, inner), np.float32)
    with threads_for(size):
        return _each(lambda: left @ right.T, size * size * inner)


def _factor(size: int) -> tuple[float, float]:
    matrix = np.eye(size) + 1.0 / size
    with threads_for(size):
        return _each(lambda: lapack.dpotrf(matrix, lower=1), size**3 / 6)
