"""A result that was found is checked as the runtime sees it, and again as it lies in its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import onnx_ir as ir

from obs_onnx.io.onnx_file import load_model, serialize
from obs_onnx.passes.canonical.finished import finished
from obs_onnx.pruning.calibrated import Calibrated
from obs_onnx.pruning.judgement import Attempt
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.pruning.strategy import Finished
from obs_onnx.runtimes.bfloat16 import runnable
from obs_onnx.runtimes.partial_run import Values
from obs_onnx.verification.decisions import decided_outputs
from obs_onnx.verification.written_model import check_batches, check_model, resized_outputs

__all__ = ["Proven", "verify"]

A_co = TypeVar("A_co", bound=Attempt, covariant=True)


@dataclass(frozen=True)
class Proven(Generic[A_co]):
    """A result that loads and runs.

    Attributes:
        result: which one.
        calibrated: what it was checked with.
        expected: its outputs for the first batch of held-out data.
        outputs: those of the dense model.
    """

    result: Finished[A_co]
    calibrated: Calibrated
    expected: Values
    outputs: Values

    def check_file(self, custom_domains: Sequence[str]) -> Callable[[Path], None]:
        """What a written file must pass: it loads, and gives the outputs that are expected."""
        runtime, first = self.calibrated.dense.runtime, self.calibrated.data.first

        def check(written: Path) -> None:
            again = runnable(runtime, load_model(written, custom_domains=custom_domains))[0]
            known = self.calibrated.dense.complaints
            check_model(runtime, again, first, self.expected, self.outputs, known)

        return check


def verify(
    result: Finished[A_co], original: ir.Model, calibrated: Calibrated, recorder: Recorder
) -> Proven[A_co]:
    """Check that the model of a result loads, runs, and takes batches as the dense one does.

    What comes back holds it in the form in which it is written.

    Args:
        result: what was found.
        original: the model as it came in.
        calibrated: the dense model and the data.
        recorder: of the stages.

    Raises:
        VerificationError: it does not.
    """
    dense, first, model = calibrated.dense, calibrated.data.first, result.attempt.model
    with recorder.stage("verify"):
        session = dense.runtime.session(serialize(model))
        expected, outputs = session.run(first), dense.session.run(first)
        left_out = check_model(dense.runtime, model, first, expected, outputs, dense.complaints)
        check_batches(dense.session, session, first, decided_outputs(model))
        resized = resized_outputs(dense.session, session, calibrated.data.held_out, decided_outputs(model))
    alerts = [
        f"output {name} has another size than the dense model's in {100 * share:.0f}% of the runs on "
        "held-out data, where all of it counts as wrong; multiply-accumulates and memory of each model are "
        "those of the sizes that it chose"
        for name, share in resized.items()
    ]
    if left_out:
        names = ", ".join(left_out)
        alerts.append(f"not compared with what was measured: output {names}, which differs from run to run")
    whole = finished(result.model, original)
    result = replace(result, model=whole, alerts=(*result.alerts, *alerts))
    return Proven(result, calibrated, expected, outputs)
