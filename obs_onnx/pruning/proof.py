"""A result that was found is checked as the runtime sees it, and again as it lies in its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import onnx_ir as ir

from obs_onnx.evaluation.merged import fitted
from obs_onnx.io.onnx_file import load_model
from obs_onnx.passes.canonical.finished import finished
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.interface.caches import Kept, narrowed
from obs_onnx.passes.printable import first_of
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole
from obs_onnx.verification.decisions import decided_outputs
from obs_onnx.verification.written_model import check_batches, check_model, check_rest, resized_outputs

__all__ = ["Proven", "verify"]

_NAMED = 4  # caches in a note

A_co = TypeVar("A_co", bound=Attempt, covariant=True)


@dataclass(frozen=True)
class Proven(Generic[A_co]):
    """A result that loads and runs.

    Attributes:
        result: which one; its model is complete, and takes the batch of the one that came in.
        calibrated: what it was checked with.
        feed: held-out data, as many samples as the model takes.
        expected: outputs of the part that is measured for them.
        outputs: those of the dense model.
    """

    result: Finished[A_co]
    calibrated: Calibrated
    feed: Values
    expected: Values
    outputs: Values

    @property
    def cache_names(self) -> frozenset[str]:
        """Inputs that are caches and may have changed."""
        caches = self.calibrated.front.caches
        return frozenset() if caches is None else caches.names

    def check_file(self, custom_domains: Sequence[str]) -> Callable[[Path], None]:
        """What a written file must pass: it loads, and gives the outputs that are expected."""
        dense, front = self.calibrated.dense, self.calibrated.front

        def check(written: Path) -> None:
            model = load_model(written, custom_domains=custom_domains if front.cut is None else None)
            again = runnable(dense.runtime, model if front.cut is None else front.part(model))[0]
            feed = narrowed(self.feed, self.result.caches)
            check_model(dense.runtime, again, feed, self.expected, self.outputs, dense.complaints)
            if front.runs and front.cut is not None and not self.result.copied:
                check_rest(dense.runtime, front.cut, model, feed, self.expected)

        return check


def verify(result: Finished[A_co], calibrated: Calibrated, recorder: Recorder) -> Proven[A_co]:
    """Check that the model of a result loads, runs, and takes batches as the dense one does.

    What comes back holds it complete, in the form in which it is written. Where the batch was fixed it is put
    back, and the result is compared with itself on so many samples.

    Args:
        result: what was found.
        calibrated: the dense model and the data.
        recorder: of the stages.

    Raises:
        VerificationError: it does not.
    """
    dense, first = calibrated.dense, calibrated.data.first
    model = written_form(result.attempt.model)
    with recorder.stage("verify"):
        session = open_whole(dense.runtime, model)
        expected, outputs = session.run(first), dense.session.run(first)
        left_out = check_model(dense.runtime, model, first, expected, outputs, dense.complaints)
        check_batches(dense.session, session, first, decided_outputs(model))
        resized = resized_outputs(dense.session, session, calibrated.data.held_out, decided_outputs(model))
        if (batch := dense.batch) is not None:
            first, given = fitted(first, batch.inputs, batch.size), runnable(dense.runtime, batch.given)[0]
            expected, outputs = session.run(first), open_whole(dense.runtime, given).run(first)
            check_model(dense.runtime, batch.put_back(model), first, expected, outputs, dense.complaints)
            result = replace(result, model=batch.put_back(result.model))
        if (front := calibrated.front).caches is not None:
            shown = open_whole(dense.runtime, front.caches.shown(model)).run(first)
            expected, outputs = {**shown, **expected}, {**shown, **outputs}
    alerts = [
        f"output {name} has another size than the dense model's in {100 * share:.0f}% of the runs on "
        "held-out data, where all of it counts as wrong; multiply-accumulates and memory of each model are "
        "those of the sizes that it chose"
        for name, share in resized.items()
    ]
    if left_out:
        names = ", ".join(left_out)
        alerts.append(f"not compared with what was measured: output {names}, which differs from run to run")
    whole = front.complete(result.model)
    caches = {} if front.caches is None else front.caches.kept(whole)
    whole = finished(front.closed(whole), front.original)
    notes = (*result.notes, *_changed(whole, caches))
    result = replace(result, model=whole, caches=caches, notes=notes, alerts=(*result.alerts, *alerts))
    return Proven(result, calibrated, first, expected, outputs)


def _changed(model: ir.Model, caches: Kept) -> list[str]:
    """That whoever runs the model has to make other caches."""
    shapes = [
        f"{value.name} ({', '.join(str(dim) for dim in value.shape or ())})"
        for value in model.graph.inputs
        if value.name in caches
    ]
    return (
        [f"caches have other sizes, as inputs and as outputs: {first_of(shapes, _NAMED)}"] if shapes else []
    )
