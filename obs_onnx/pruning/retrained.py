"""What follows a round of pruning: retraining, kept unless it breaks a limit that held."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.data.fixed import fixed_names
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.free_batch import freed_source
from obs_onnx.evaluation.run_cost import MOST_SAMPLES
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.calibrated import HELD_OUT, Calibrated
from obs_onnx.pruning.judgement import Attempt, Judged, judge
from obs_onnx.pruning.options import RunOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.training.loop import Settings, Trained
from obs_onnx.training.retraining import Retraining
from obs_onnx.training.settings import choose_optimizer

__all__ = ["Retrained", "open_retraining", "parameters_of", "retrained"]


@dataclass(frozen=True)
class Retrained:
    """A copy of a pruned model, retrained.

    Attributes:
        model: the copy.
        training: what was done.
        judged: how it does.
        kept: it broke no limit that the model held before.
    """

    model: ir.Model
    training: Trained
    judged: Judged
    kept: bool


def open_retraining(calibrated: Calibrated, rounds: int, options: RunOptions) -> Retraining | None:
    """How models are retrained, and that they can be; None where they are not.

    Args:
        calibrated: the dense model, which teaches, and the data.
        rounds: of pruning.
        options: about retraining.

    Raises:
        OptionError, DataError, GradientError: it cannot be done.
    """
    dense, data = calibrated.dense, calibrated.data
    if not options.finetune:
        return None
    if not isinstance(dense.runtime, OrtRuntime):
        raise OptionError(f"{named('finetune')} trains with onnxruntime, not with {options.runtime}")
    settings = Settings(
        options.finetune if options.finetune_last is None else options.finetune_last,
        options.train_batch,
        choose_optimizer(options.optimizer, options.trainer),
        options.lr,
        seed=options.seed,
        trainer=options.trainer,
        augment=options.augment,
    )
    fit, held_out, work = data.fit, data.held_out, calibrated.work
    if options.finetune_data is not None:
        read = partial(
            open_source,
            options.finetune_data,
            batch_size=MOST_SAMPLES,
            labels_key=options.labels,
            seed=options.seed,
            preprocess=options.preprocess,
            without=fixed_names(options.fix),
        )
        source = freed_source(dense.batch, dense.session.inputs, MOST_SAMPLES, read)
        source = source.rebatch(dense.cost.samples(calibrated.budget.memory))
        fit, held_out = split(source, HELD_OUT, options.seed)
        work = work.stage("data to train on", fit.batches(), held_out.batches())
    found = Retraining(
        dense.runtime,
        dense.session,
        fit,
        held_out,
        settings,
        options.labels is not None and fit.has_labels,
        options.mix,
        calibrated.yardstick.task,
        options.finetune,
        rounds,
        options.shown,
        calibrated.yardstick.parts,
        work,
    )
    found.check(dense.model)
    return found


def retrained(
    attempt: Attempt,
    retraining: Retraining,
    frozen: Collection[str],
    before: Sequence[Trained],
    *,
    keep_zeros: bool,
    last: bool,
    targets: Targets,
    calibrated: Calibrated,
    recorder: Recorder,
) -> Retrained:
    """Retrain the model of an attempt and judge it again.

    Args:
        attempt: not changed.
        retraining: how; ``frozen``, ``before``, ``keep_zeros`` and ``last`` are as for its call.
        targets: whose limits count.
        calibrated: the dense model and the data that the model is judged by.
        recorder: of the stages.
    """
    with recorder.stage("retrain"):
        found = retraining(attempt.model, frozen, keep_zeros, before, last)
    model = SetWeights(found.weights)(attempt.model.clone()).model
    judged = judge(model, calibrated, recorder)
    broken = judged.strain(targets) > 1 >= attempt.strain(targets)
    return Retrained(model, found, judged, not broken)


def parameters_of(layers: Sequence[Layer]) -> set[str]:
    """Names of the weights and biases of layers."""
    biases = {use.bias for layer in layers for use in layer.uses if use.bias is not None}
    return {layer.name for layer in layers} | biases
