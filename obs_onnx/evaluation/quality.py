"""How good a model is: what it is worth on labels, and how far its outputs are from another model's.

    output_error   = largest error among the parts of all outputs, times its weight
    agreement      = share of rows of class scores whose largest one is that of the same class

See :mod:`obs_onnx.evaluation.measures.parts` for parts and their errors,
:mod:`obs_onnx.evaluation.measures.class_scores` for what are class scores, and
:mod:`obs_onnx.evaluation.measures.class_counts` and :mod:`obs_onnx.evaluation.measures.options` for the
measures of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, Feed, TensorSpec, is_float
from obs_onnx.data.open_source import Source
from obs_onnx.evaluation.changed_samples import Changed, ChangedClasses
from obs_onnx.evaluation.data_checks import guesses
from obs_onnx.evaluation.measures.class_counts import ClassCounts
from obs_onnx.evaluation.measures.class_scores import classes_of
from obs_onnx.evaluation.measures.metric import MIOU, Collected, Metric
from obs_onnx.evaluation.measures.options import AUTO, EMBEDDING
from obs_onnx.evaluation.measures.parts import ErrorSums
from obs_onnx.evaluation.measures.yardstick import Yardstick, read_outputs
from obs_onnx.passes.errors import DataError, named
from obs_onnx.results.pruning import PartError
from obs_onnx.runtimes import Session

__all__ = ["Evaluation", "Tally", "evaluate_sessions", "paired"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None where it does not apply.

    Attributes:
        samples: that went through the model (feeds, if its outputs do not count samples).
        task: what the model was taken to be for; auto where nothing says it.
        accuracy: share of rows of class scores (0 to 1) whose largest one is that of their label.
        accuracy_top5: the same for the five largest, with more than five classes.
        output_error: largest error of a part against the reference; inf if an output is not finite.
        output_errors: largest error of a part, by output.
        parts: all of them, the worst first.
        agreement: share of rows (0 to 1) put into the same class as by the reference.
        measures: others of the task, by name.
        metric: what the user's own function says.
        alerts: what makes all this doubtful, of a model that is measured by itself.
        notes: what else the reader should know of the data.
        changed: some of the samples that the reference puts into another class, those it was surest of first.
    """

    samples: int
    task: str = AUTO
    accuracy: float | None = None
    accuracy_top5: float | None = None
    output_error: float | None = None
    output_errors: Mapping[str, float] | None = None
    parts: tuple[PartError, ...] = ()
    agreement: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    metric: float | None = None
    alerts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()

    def figure(self, metric: Metric) -> float | None:
        """What was measured of a metric."""
        if metric.function is not None:
            return self.metric
        return self.measures.get("miou") if metric is MIOU else self.accuracy

    def to_json(self) -> dict[str, Any]:
        """The fields that apply, ready for JSON; those about parts only for several of them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "changed"}
        if self.task == AUTO:
            del fields["task"]
        for name in ("alerts", "notes"):
            if not fields[name]:
                del fields[name]
        if len(self.output_errors or ()) < 2:
            del fields["output_errors"]
        fields["parts"] = [asdict(part) for part in self.parts] if len(self.parts) > 1 else None
        fields["measures"] = dict(self.measures) or None
        return {name: value for name, value in fields.items() if value is not None}


class Tally:
    """Counts that an :class:`Evaluation` is made of, added batch by batch.

    Args:
        yardstick: how the outputs are measured.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick
        self._samples = 0
        self._classes = ClassCounts(yardstick)
        self._errors = ErrorSums(yardstick.parts)
        self._cosines: list[float] = []
        self._changed = ChangedClasses(yardstick.scores)

    def add(
        self,
        outputs: Feed,
        labels: NDArray[np.int64] | None = None,
        reference: Feed | None = None,
        free: Collection[str] = (),
        feed: Feed | None = None,
    ) -> None:
        """Count one batch.

        Args:
            outputs: of the model, output name -> array.
            labels: one class per row of class scores, or None.
            reference: outputs of the reference under the same names, or None.
            free: outputs whose size may follow from the data: another one counts as all wrong.
            feed: what the model was given, whose tokens it may have foretold.

        Raises:
            DataError: labels or reference outputs that do not fit, or a reference that gives NaN.
        """
        self._samples += self._count(outputs)
        if labels is not None:
            self._classes.add_labels(outputs, labels)
        tokens = self._tokens(feed) if labels is None and feed is not None else None
        if tokens is not None:
            self._classes.add_tokens("perplexity", outputs, tokens)
        if reference is None:
            return
        if tokens is not None:
            self._classes.add_tokens("perplexity_dense", reference, tokens)
        for name, y in reference.items():
            _check(name, outputs[name], y, name in free)
        self._errors.add(reference, outputs)
        self._classes.add_reference(outputs, reference)
        self._changed.add(outputs, reference)
        if self._yardstick.task == EMBEDDING:
            for part_output in dict.fromkeys(part.output for part in self._yardstick.parts):
                self._cosines += _cosines(reference[part_output], outputs[part_output])

    def _tokens(self, feed: Feed) -> NDArray[np.int64] | None:
        own = self._yardstick.tokens
        return None if own is None else own.labels(feed)

    def _count(self, outputs: Feed) -> int:
        """Samples in a batch; 1 where its outputs do not count them."""
        scores, numbers = self._yardstick.scores, self._yardstick.numbers
        if scores is not None and not scores.single:
            return len(outputs[scores.name])
        classes = classes_of(outputs, scores, numbers)
        return 1 if classes is None else len(classes)

    @property
    def alerts(self) -> tuple[str, ...]:
        """What labels and classes so far say against data, or labels, of a model that was trained on both."""
        classes = self._classes
        return tuple(guesses(classes.accuracy, classes.labelled, classes.classes))

    def result(self, metric: float | None = None) -> Evaluation:
        """What all batches so far amount to, with what the user's function says."""
        parts = tuple(sorted(self._errors.errors(), key=lambda part: -part.weighted))
        by_output: dict[str, float] = {}
        for part in parts:
            by_output.setdefault(part.output, part.weighted)
        measures = self._classes.measures
        if self._cosines:
            measures |= {"cosine": float(np.mean(self._cosines)), "least_cosine": min(self._cosines)}
        return Evaluation(
            samples=self._samples,
            task=self._yardstick.task,
            accuracy=self._classes.accuracy,
            accuracy_top5=self._classes.accuracy_top5,
            output_error=parts[0].weighted if parts else None,
            output_errors=by_output or None,
            parts=parts,
            agreement=self._classes.agreement,
            measures=measures,
            metric=metric,
            changed=self._changed.found,
        )


def _check(name: str, output: Array, reference: Array, free: bool) -> None:
    """Refuse what cannot be compared.

    Raises:
        DataError: another shape where sizes do not follow from the data, or a reference that gives NaN.
    """
    if not is_float(reference.dtype):
        return
    if output.shape != reference.shape and not free:
        raise DataError(
            f"output {name!r} has shape {output.shape}, the other model's {reference.shape}: "
            "only models with the same outputs can be compared"
        )
    if np.isnan(reference).any():
        raise DataError(f"output {name!r} of the reference is NaN for some of the data: remove those samples")


def _cosines(y: Array, z: Array) -> list[float]:
    """Cosine of each vector along the last axis; 0 where one of the two has no direction."""
    if y.shape != z.shape or y.ndim < 2:
        return []
    y, z = (one.reshape(-1, one.shape[-1]).astype(np.float64) for one in (y, z))
    lengths = np.linalg.norm(y, axis=1) * np.linalg.norm(z, axis=1)
    dots = np.einsum("ni,ni->n", y, z)
    same = (y == z).all(axis=1)
    with np.errstate(invalid="ignore"):
        found = np.divide(dots, lengths, out=same.astype(np.float64), where=lengths > 0)
    return [float(one) if np.isfinite(one) else 0.0 for one in found]


def evaluate_sessions(
    session: Session,
    source: Source,
    reference: Session | None = None,
    *,
    yardstick: Yardstick | None = None,
    metric: Metric | None = None,
    progress: Callable[[int], None] | None = None,
    trained: bool = False,
) -> Evaluation:
    """:func:`evaluate` for loaded models.

    Args:
        session: the model.
        source: the data.
        reference: what it is compared with.
        yardstick: how its outputs are measured; without one, the data and the reference (or the model) say
            it.
        metric: of the user's.
        progress: called with the number of batches done.
        trained: the model should know its labels; it is an alert if it guesses.

    Raises:
        DataError: data that does not fit, or a reference with other inputs or outputs.
    """
    pairs = paired(session, reference) if reference is not None else {}
    if yardstick is None:
        dense = session if reference is None else reference
        yardstick = read_outputs(dense, source, spreads=reference is not None)
    tally, collected = Tally(_renamed(yardstick, pairs)), Collected()
    free = set() if reference is None else _free(session, reference)
    for number, (feed, labels) in enumerate(source.batches(), start=1):
        if reference is None:
            outputs = session.run(feed)
            tally.add(outputs, labels, feed=feed)
        else:
            outputs = session.run(feed, list(pairs))
            theirs = reference.run(feed, list(pairs.values()))
            named = {name: theirs[other] for name, other in pairs.items()}
            tally.add(outputs, labels, named, free, feed)
        if metric is not None and metric.function is not None:
            collected.add(outputs, labels, feed if metric.reads_inputs else None)
        if progress is not None:
            progress(number)
    own = None if metric is None or metric.function is None else metric.value(collected)
    found = replace(tally.result(own), alerts=tally.alerts if trained else ())
    counted = source.unit == "samples" and source.count is not None
    return replace(found, samples=source.count) if counted and source.count is not None else found


def paired(session: Session, reference: Session) -> dict[str, str]:
    """Output of the model -> output of the reference: by name, or by position if the names differ.

    Raises:
        DataError: the models take or give other things.
    """
    if {spec.name for spec in session.inputs} != {spec.name for spec in reference.inputs}:
        raise DataError(
            f"the models take different inputs ({', '.join(spec.name for spec in session.inputs)} and "
            f"{', '.join(spec.name for spec in reference.inputs)}): only models with the same can be compared"
        )
    mine, theirs = ({spec.name: spec for spec in one.outputs} for one in (session, reference))
    if set(mine) <= set(theirs):
        pairs = {name: name for name in mine}
    elif len(mine) == len(theirs):
        pairs = dict(zip(mine, theirs, strict=True))
    else:
        raise DataError(
            f"the models have different outputs ({', '.join(mine)} and {', '.join(theirs)}): "
            "only models with the same can be compared"
        )
    if any(np.issubdtype(spec.dtype, np.integer) for spec in reference.inputs):
        for name, other in pairs.items():
            _check_tokens(mine[name], theirs[other])
    return pairs


def _check_tokens(output: TensorSpec, reference: TensorSpec) -> None:
    """Refuse scores of other tokens before anything runs: a smaller vocabulary lacks ids of a larger one."""
    ours, theirs = ((spec.shape or (None,))[-1] for spec in (output, reference))
    if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs and is_float(reference.dtype):
        raise DataError(
            f"output {output.name!r} scores {ours} tokens or classes, the other model's {theirs}: only "
            f"models with the same ones can be compared (how far {named('vocabulary')} leads away from the "
            "larger model stands in its report)"
        )


def _free(session: Session, reference: Session) -> set[str]:
    """Outputs of one name and one declared shape, of which not all sizes are given."""
    shapes = {spec.name: spec.shape for spec in reference.outputs}
    return {
        spec.name
        for spec in session.outputs
        if spec.name in shapes
        and spec.shape == shapes[spec.name]
        and (spec.shape is None or not all(isinstance(size, int) for size in spec.shape))
    }


def _renamed(yardstick: Yardstick, pairs: Mapping[str, str]) -> Yardstick:
    """The yardstick of a reference in the names of a model; ``pairs``: its names -> the reference's."""
    mine = {other: name for name, other in pairs.items()}
    if all(other == name for other, name in mine.items()):
        return yardstick
    scores, numbers = yardstick.scores, yardstick.numbers
    return replace(
        yardstick,
        scores=None if scores is None else replace(scores, name=mine[scores.name]),
        numbers=None if numbers is None else mine[numbers],
        parts=tuple(
            replace(part, output=mine[part.output], name=part.name.replace(part.output, mine[part.output], 1))
            for part in yardstick.parts
            if part.output in mine
        ),
    )
