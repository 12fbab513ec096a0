"""What follows pruning: retraining, or steps of all weights together, kept where they break no limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from obs_onnx.allocation.targets import Targets
from obs_onnx.data.fixed import fixed_names
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation.free_batch import freed_source
from obs_onnx.evaluation.run_cost import MOST_SAMPLES, measured
from obs_onnx.passes.canonical.plainer.written_form import written_form
from obs_onnx.passes.errors import GradientError, ModelError, OptionError, named
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.pruning.calibrated import HELD_OUT, Calibrated
from obs_onnx.pruning.effort import LEAST_HELD_OUT
from obs_onnx.pruning.judgement import Attempt, Judged, Refinement, judge
from obs_onnx.pruning.options import RunOptions
from obs_onnx.pruning.recorder import Recorder
from obs_onnx.reconstruction.outputs import Corrected, correct_outputs
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions.block_session import is_weighty
from obs_onnx.training.loop import Settings, Trained
from obs_onnx.training.retraining import Retraining
from obs_onnx.training.settings import choose_optimizer

__all__ = ["Refined", "Retrained", "open_retraining", "parameters_of", "refined", "retrained"]

_LEFT_OUT = "all weights together were not corrected"


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


@dataclass(frozen=True)
class Refined:
    """A copy of a pruned model, all of whose weights were corrected together.

    Attributes:
        model: the copy.
        judged: how it does.
        refinement: what was done.
    """

    model: ir.Model
    judged: Judged
    refinement: Refinement


def refined(
    attempt: Attempt,
    frozen: Collection[str],
    *,
    targets: Targets,
    calibrated: Calibrated,
    recorder: Recorder,
) -> Refined:
    """Correct all weights of an attempt together; as it was where that is not possible or not better.

    Args:
        attempt: not changed.
        frozen: initializers that stay.
        targets: whose limits count.
        calibrated: the dense model and the data.
        recorder: of the stages.
    """
    as_it_was = Judged(attempt.quality, attempt.drop, labelled=attempt.labelled)
    before = attempt.quality.output_error
    if calibrated.budget.effort.refining == 0 or before is None or before <= calibrated.rounding:
        return Refined(attempt.model, as_it_was, Refinement({}, ""))
    try:
        found = _corrected(attempt.model, frozen, calibrated, recorder)
    except (GradientError, ModelError, OptionError) as error:
        return Refined(attempt.model, as_it_was, Refinement({}, f"{_LEFT_OUT}: {error}"))
    if not found.weights:
        told = "no step of all weights together made the error on held-out data smaller: none was taken"
        return Refined(attempt.model, as_it_was, Refinement({}, told))
    model = SetWeights(found.weights)(attempt.model.clone()).model
    judged = judge(model, calibrated, recorder)
    after = judged.quality.output_error
    broken = judged.strain(targets) > 1 >= attempt.strain(targets)
    if after is None or after >= before or broken:
        told = "steps of all weights together made the held-out loss smaller, but not the output error or a "
        told += "target that held: they were not kept"
        return Refined(attempt.model, as_it_was, Refinement({}, told))
    told = (
        f"all weights together were corrected in {found.steps} steps: output error on held-out data "
        f"{before:.4g} -> {after:.4g}, loss {found.before:.4g} -> {found.after:.4g}"
    )
    return Refined(model, judged, Refinement(found.weights, told))


def _corrected(
    model: ir.Model, frozen: Collection[str], calibrated: Calibrated, recorder: Recorder
) -> Corrected:
    """Weights corrected together.

    Raises:
        GradientError, ModelError, OptionError: they cannot be.
    """
    dense, data, budget = calibrated.dense, calibrated.data, calibrated.budget
    runtime = dense.runtime
    if not isinstance(runtime, OrtRuntime):
        raise OptionError(f"derivatives are computed with onnxruntime, not with {runtime.spec}")
    fit, held_out = data.fit, data.held_out
    if fit.count is None or held_out.count is None or "feeds" in (fit.unit, held_out.unit):
        raise OptionError("the data does not tell how many samples it has")
    if held_out.count < LEAST_HELD_OUT:
        raise OptionError(
            f"{held_out.count} samples are held out to judge it, and {LEAST_HELD_OUT} are needed"
        )
    if is_weighty(model):
        raise OptionError("its weights lie in files")
    macs = measured(runtime, written_form(model), data.sample).macs
    steps = budget.effort.refines(macs, fit.count, held_out.count)
    if steps is None:
        raise OptionError("it takes more than this effort allows")
    batch = max(1, data.batch // 2)
    work = calibrated.work.stage("refine", model, steps, set(frozen))
    with recorder.stage("refine", steps.steps) as advance:
        return work.one(
            Corrected,
            "weights",
            lambda: correct_outputs(
                runtime,
                model,
                dense.session,
                fit.rebatch(batch),
                held_out.rebatch(batch),
                dense.yardstick,
                steps,
                frozen=frozen,
                most=budget.memory // steps.bytes_per_weight,
                seed=data.seed,
                advance=advance,
            ),
        )
