"""Pruning and quantization together: the dense and the pruned model, in float and in integers of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.merged import fitted
from obs_onnx.io.onnx_file import load_model, serialize
from obs_onnx.passes.batch.free_batch import FreeBatch
from obs_onnx.passes.canonical.upcast import uses_bfloat16
from obs_onnx.passes.errors import ModelError, OptionError, VerificationError, named
from obs_onnx.passes.interface.caches import narrowed
from obs_onnx.quantization.int8 import check_quantizable, quantize
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.verification.checker import complaints
from obs_onnx.verification.front import Front
from obs_onnx.verification.written_model import check_model

__all__ = ["Int8", "Quantized"]


@dataclass(frozen=True)
class Int8:
    """Quantizes the models of one run, all with the same calibration data.

    Attributes:
        where: runtime for calibration and checks.
        front: where the model was cut.
        source: calibration data.
        dense: the dense model, quantized.
        notes: for the report.
    """

    where: Runtime
    front: Front
    source: Source
    dense: ir.Model
    notes: tuple[str, ...]

    @classmethod
    def of(cls, where: Runtime, front: Front, dense: ir.Model, source: Source) -> Int8:
        """Quantize the dense model, so that whatever is in the way shows before anything costly starts.

        Args:
            where: runtime for calibration and checks.
            front: the model as it came in, and what of it is measured.
            dense: the latter in the form that is calibrated.
            source: calibration data.

        Raises:
            OptionError, MissingRuntimeError, ModelError: it cannot be quantized.
        """
        if uses_bfloat16(front.original):
            raise OptionError(
                f"{named('quantize', 'int8')} needs float32, and this model is bfloat16: "
                "give the float32 model"
            )
        check_quantizable(dense)
        quantized, notes = quantize(dense, source, where)
        if not _sound(where, dense, quantized, source):
            raise ModelError(
                f"outputs of the quantized dense model are no numbers: leave out {named('quantize')}"
            )
        return cls(where, front, source, quantized, notes)

    def quantize(self, model: ir.Model) -> Quantized:
        """The pruned model, quantized and checked.

        Raises:
            VerificationError: its outputs are no numbers, or a zero did not stay one.
        """
        caches = self.front.caches
        whole = () if caches is None else caches.droppers(model)
        quantized, _ = quantize(model, self.source, self.where, whole)
        if not _sound(self.where, model, quantized, self.source):
            raise VerificationError("outputs of the quantized model are no numbers")
        feed = next(iter(self.source))
        expected = self.where.session(serialize(quantized)).run(feed)
        check_model(self.where, quantized, feed, expected, known=complaints(self.dense))
        return Quantized(quantized, self.dense, self.front, self.notes, self.where, feed, expected)


@dataclass(frozen=True)
class Quantized:
    """A pruned model in integers of 8 bits.

    Attributes:
        model: the pruned one, quantized.
        dense: the dense one, quantized.
        front: where both were cut.
        notes: for the report.
        runtime: where both run.
        feed, expected: a batch of data, and the outputs of ``model``.
    """

    model: ir.Model
    dense: ir.Model
    front: Front
    notes: tuple[str, ...]
    runtime: Runtime
    feed: Values
    expected: Values

    def put_back(self, batch: FreeBatch | None) -> Quantized:
        """The same with the batch of the model as it came in, where it takes any number of samples."""
        if batch is None:
            return self
        feed = fitted(self.feed, batch.inputs, batch.size)
        expected = self.runtime.session(serialize(self.model)).run(feed)
        model, dense = (batch.put_back(one) for one in (self.model, self.dense))
        return replace(self, model=model, dense=dense, feed=feed, expected=expected)

    @property
    def complete(self) -> ir.Model:
        """The pruned one, quantized, with what lies behind it, and with its caches."""
        return self.front.closed(self.front.complete(self.model))

    def check_file(self, written: Path) -> None:
        """Check that a written file loads, and does what the quantized model does.

        Raises:
            VerificationError: it does not.
        """
        model = load_model(written, custom_domains=None if self.front.foreign else ())
        known = complaints(self.dense)
        caches = self.front.caches
        feed = self.feed if caches is None else narrowed(self.feed, caches.kept(self.model))
        check_model(self.runtime, self.front.part(model), feed, self.expected, known=known)


def _sound(where: Runtime, model: ir.Model, quantized: ir.Model, source: Source) -> bool:
    """Whether the quantized model loads and gives numbers wherever the other one does."""
    feed = next(iter(source))
    expected, found = (where.session(serialize(one)).run(feed) for one in (model, quantized))
    return all(
        found[name].shape == array.shape and np.isfinite(found[name][np.isfinite(array)]).all()
        for name, array in expected.items()
        if array.dtype.kind == "f"
    )
