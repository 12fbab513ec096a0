"""How good a model is: accuracy against labels, and how far its outputs are from another model's.

With outputs ``y`` of the reference and ``z`` of the model, over all samples:

    error(output)  = sqrt(sum |z - y|^2 / sum |y|^2)
    output_error   = sqrt(mean over float outputs of error(output)^2)
    agreement      = share of samples whose largest class score is the same class

so that one output gives its relative error and no output drowns another by its scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, Feed, is_float
from obs_onnx.data.open_source import Source
from obs_onnx.evaluation.class_scores import classes_of, find_class_scores, rows_of
from obs_onnx.passes.errors import DataError
from obs_onnx.runtimes import Session

__all__ = ["Evaluation", "Tally", "evaluate_sessions"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None where it does not apply.

    Attributes:
        samples: that went through the model (feeds, if its outputs do not count samples).
        accuracy: share of samples (0 to 1) whose largest score is their label.
        accuracy_top5: the same for the five largest, with more than five classes.
        output_error: relative error of the outputs against the reference; inf if an output is not finite.
        output_errors: the same per float output.
        agreement: share of samples (0 to 1) put into the same class as by the reference.
    """

    samples: int
    accuracy: float | None = None
    accuracy_top5: float | None = None
    output_error: float | None = None
    output_errors: Mapping[str, float] | None = None
    agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that apply, ready for JSON; ``output_errors`` only for several outputs."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "output_errors"}
        if self.output_errors is not None and len(self.output_errors) > 1:
            fields["output_errors"] = dict(self.output_errors)
        return {name: value for name, value in fields.items() if value is not None}


class Tally:
    """Counts that an :class:`Evaluation` is made of, added batch by batch."""

    def __init__(self) -> None:
        self._samples = self._labelled = self._right = self._right5 = self._same = self._compared = 0
        self._classes = 0
        self._errors: dict[str, float] = {}
        self._energies: dict[str, float] = {}

    def add(
        self,
        outputs: Feed,
        labels: NDArray[np.int64] | None = None,
        reference: Feed | None = None,
        free: Collection[str] = (),
    ) -> None:
        """Count one batch.

        Args:
            outputs: of the model, output name -> array.
            labels: one class per sample, or None.
            reference: outputs of the reference under the same names, or None.
            free: outputs whose size may follow from the data: another one counts as all wrong.

        Raises:
            DataError: labels or reference outputs that do not fit.
        """
        classes = classes_of(outputs)
        self._samples += 1 if classes is None else len(classes)
        if labels is not None and classes is not None:
            found = find_class_scores(outputs)
            self._add_labels(labels, classes, None if found is None else rows_of(outputs[found.name]))
        if reference is not None:
            for name, output in outputs.items():
                if name in free and output.shape != reference[name].shape:
                    output = np.zeros_like(reference[name])
                self._add_error(name, output, reference[name])
            theirs = classes_of(reference)
            if classes is not None and theirs is not None:
                both = min(len(classes), len(theirs))
                self._same += int((classes[:both] == theirs[:both]).sum())
                self._compared += max(len(classes), len(theirs))

    def result(self) -> Evaluation:
        """What all batches so far amount to."""
        errors = {name: _ratio(error, self._energies[name]) for name, error in self._errors.items()}
        mean = sum(error * error for error in errors.values()) / max(1, len(errors))
        labelled = self._labelled or None
        return Evaluation(
            samples=self._samples,
            accuracy=labelled and self._right / labelled,
            accuracy_top5=labelled and self._right5 / labelled if self._classes > 5 else None,
            output_error=math.sqrt(mean) if errors else None,
            output_errors=errors or None,
            agreement=self._same / self._compared if self._compared else None,
        )

    def _add_labels(self, labels: NDArray[np.int64], classes: Array, scores: Array | None) -> None:
        if len(labels) != len(classes):
            raise DataError(
                f"{len(labels)} labels for {len(classes)} rows of class scores: give one per sample"
            )
        self._labelled += len(labels)
        self._right += int((classes == labels).sum())
        if scores is None:
            return
        self._classes = scores.shape[1]
        if labels.max() >= self._classes:
            raise DataError(
                f"labels go up to {labels.max()}, the model has {self._classes} classes (counted from 0): "
                "give the labels the model was trained with"
            )
        if self._classes > 5:
            best = np.argpartition(-scores.astype(np.float32), 5, axis=1)[:, :5]
            self._right5 += int((best == labels[:, None]).any(axis=1).sum())

    def _add_error(self, name: str, output: Array, reference: Array) -> None:
        if not is_float(reference.dtype):
            return
        if output.shape != reference.shape:
            raise DataError(
                f"output {name!r} has shape {output.shape}, the other model's {reference.shape}: "
                "only models with the same outputs can be compared"
            )
        z, y = output.astype(np.float64), reference.astype(np.float64)
        different = z != y  # equal infinities (masked scores) count as equal
        with np.errstate(invalid="ignore"):
            error = np.square(z[different] - y[different]).sum()
        self._errors[name] = self._errors.get(name, 0.0) + float(error if np.isfinite(error) else np.inf)
        energy = float(np.square(y[np.isfinite(y)]).sum())
        self._energies[name] = self._energies.get(name, 0.0) + energy


def evaluate_sessions(
    session: Session,
    source: Source,
    reference: Session | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """:func:`evaluate` for loaded models.

    Raises:
        DataError: data that does not fit, or a reference with other inputs or outputs.
    """
    pairs = _paired(session, reference) if reference is not None else {}
    tally = Tally()
    free = set() if reference is None else _free(session, reference)
    for number, (feed, labels) in enumerate(source.batches(), start=1):
        if reference is None:
            tally.add(session.run(feed), labels)
        else:
            outputs = session.run(feed, list(pairs))
            theirs = reference.run(feed, list(pairs.values()))
            tally.add(outputs, labels, {name: theirs[other] for name, other in pairs.items()}, free)
        if progress is not None:
            progress(number)
    return tally.result()


def _paired(session: Session, reference: Session) -> dict[str, str]:
    """Output of the model -> output of the reference: by name, or by position if the names differ."""
    if {spec.name for spec in session.inputs} != {spec.name for spec in reference.inputs}:
        raise DataError(
            f"the models take different inputs ({', '.join(spec.name for spec in session.inputs)} and "
            f"{', '.join(spec.name for spec in reference.inputs)}): only models with the same can be compared"
        )
    mine, theirs = ([spec.name for spec in one.outputs] for one in (session, reference))
    if set(mine) <= set(theirs):
        return {name: name for name in mine}
    if len(mine) == len(theirs):
        return dict(zip(mine, theirs, strict=True))
    raise DataError(
        f"the models have different outputs ({', '.join(mine)} and {', '.join(theirs)}): "
        "only models with the same can be compared"
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


def _ratio(error: float, energy: float) -> float:
    if error == 0:
        return 0.0
    return math.sqrt(error / energy) if energy > 0 else math.inf
