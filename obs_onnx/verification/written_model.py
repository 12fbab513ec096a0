"""Measure what pruning did, and check every claim before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import DataError, ModelError, VerificationError
from obs_onnx.passes.interface.cut import Cut
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed
from obs_onnx.verification.checker import complaints, new_complaints

__all__ = ["check_batches", "check_model", "check_rest", "resized_outputs"]


def check_model(
    runtime: Runtime,
    model: ir.Model,
    feed: Values,
    expected: Values,
    dense: Values | None = None,
    known: Collection[str] = (),
) -> list[str]:
    """The full ONNX checker, a load by the runtime, and a run whose outputs are the expected ones.

    Args:
        runtime: where it runs.
        model: what was written, or will be.
        feed: of one run.
        expected: outputs.
        dense: outputs of the model as it was, the scale of what may differ; by default the expected ones.
        known: what the checker says of the model as it was, which is no fault of this one.

    Returns:
        Names of outputs that differ from run to run, so that nothing can be said of them.

    Raises:
        VerificationError: any of the three fails.
    """
    try:
        if said := new_complaints(complaints(model), known):
            raise VerificationError(f"the pruned model does not pass the ONNX checker: {'; '.join(said)}")
    except ModelError as error:
        raise VerificationError(f"the pruned model cannot be checked: {error}") from error
    try:
        session = open_part(runtime, model.clone())
    except ModelError as error:
        raise VerificationError(f"the pruned model does not load: {error}") from error
    found, scales = run_feed(session, feed), dense or expected
    wrong = [name for name, y in found.items() if not _same(y, expected[name], scales[name])]
    if wrong:
        again = run_feed(session, feed)
        for name in wrong:
            if _same(found[name], again[name], scales[name]):  # otherwise it differs from run to run
                raise VerificationError(f"output {name} of the written model differs from the measured one")
    return wrong


def _same(y: NDArray[Any], reference: NDArray[Any], dense: NDArray[Any]) -> bool:
    if y.dtype.kind != "f":
        return bool(np.array_equal(y, reference))
    scale = _largest(dense) or _largest(reference) or 1.0
    tolerance = 1e-4 if y.dtype.itemsize >= 4 else 1e-2
    return y.shape == reference.shape and np.allclose(
        y.astype(np.float64), reference, rtol=0, atol=tolerance * scale, equal_nan=True
    )


def _largest(y: NDArray[Any]) -> float:
    return float(np.max(np.abs(y[np.isfinite(y)]).astype(np.float64), initial=0.0))


def check_batches(dense: Session, small: Session, feed: Values, free: Collection[str] = ()) -> None:
    """Run both models on fewer samples, where the dense one takes them: shapes must be equal.

    Args:
        dense: the model as it was.
        small: the smaller one.
        feed: of several samples.
        free: outputs whose sizes may follow from the data.

    Raises:
        VerificationError: the smaller model does not run, or shapes differ.
    """
    sizes = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    if len(sizes) != 1 or (most := sizes.pop()) < 2:
        return
    for count in {1, min(3, most - 1)}:
        part = {name: array[:count] for name, array in feed.items()}
        try:
            expected = dense.run(part)
        except (DataError, ModelError):
            continue
        try:
            found = run_feed(small, part)
        except ModelError as error:
            raise VerificationError(
                f"the smaller model does not run with {count} samples: {error}"
            ) from error
        for name, y in found.items():
            if y.shape != expected[name].shape and (name not in free or y.ndim != expected[name].ndim):
                raise VerificationError(
                    f"output {name} has shape {y.shape} for {count} samples, not {expected[name].shape}"
                )


def check_rest(runtime: Runtime, cut: Cut, written: ir.Model, feed: Values, front: Values) -> None:
    """What lies behind the front of a written model gives of equal numbers what it gave before, and all of it
    runs.

    Args:
        runtime: where it runs.
        cut: of the dense model.
        written: the complete model.
        feed: of one run.
        front: what the front of ``written`` gives for it.

    Raises:
        VerificationError: it does not.
    """
    given = {**feed, **front}
    before, after = (open_part(runtime, cut.rest_of(one), given) for one in (cut.whole, written))
    expected, again = run_feed(before, given), run_feed(before, given)
    found = run_feed(after, given)
    for name, y in expected.items():
        drawn = not _same(again[name], y, y)
        if not drawn and not _same(found[name], y, y):
            raise VerificationError(
                f"output {name} does not follow from the front as it did in the dense model"
            )
    try:
        run_feed(open_part(runtime, written.clone()), feed)
    except ModelError as error:
        raise VerificationError(
            f"the pruned model does not run with all that lies behind: {error}"
        ) from error


def resized_outputs(
    dense: Session, small: Session, feeds: Iterable[Values], free: Collection[str]
) -> dict[str, float]:
    """Outputs that have other sizes than the dense model's, and in which share of the runs.

    Args:
        dense, small: the models.
        feeds: of the runs.
        free: outputs whose sizes may follow from the data.
    """
    counts, runs = Counter[str](), 0
    for feed in feeds if free else ():
        runs += 1
        expected, found = dense.run(feed), run_feed(small, feed)
        counts.update(name for name in sorted(free) if found[name].shape != expected[name].shape)
    return {name: count / runs for name, count in counts.items()}
