"""Pruning and quantization together: the dense and the pruned model, in float and in integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from obs_onnx.data.sources import Source
from obs_onnx.evaluation.merged import fitted
from obs_onnx.io.onnx_file import load_model, serialize
from obs_onnx.passes.batch.free_batch import FreeBatch
from obs_onnx.passes.canonical.plainer.integer_operators import as_operators
from obs_onnx.passes.canonical.upcast import uses_bfloat16
from obs_onnx.passes.errors import ModelError, OptionError, VerificationError
from obs_onnx.passes.interface.caches import narrowed
from obs_onnx.quantization.calibration import Calibration, Made
from obs_onnx.quantization.int8 import check_quantizable, quantize
from obs_onnx.quantization.options import INT8, INT8_WEIGHTS, QOPERATOR, QuantizationOptions
from obs_onnx.quantization.rounded_layers import nearest_layers
from obs_onnx.quantization.static import quantize_static
from obs_onnx.quantization.weight_only import Blocks, EightBits, Form, quantize_weights
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import Values
from obs_onnx.verification.checker import complaints
from obs_onnx.verification.distance import norm, relative
from obs_onnx.verification.front import Front
from obs_onnx.verification.written_model import check_model

__all__ = ["Quantized", "Quantizer"]


@dataclass(frozen=True)
class Quantizer:
    """Quantizes the models of one run, all with the same calibration data.

    Attributes:
        settings: what to quantize to.
        given: data, and where models run.
        front: where the model was cut.
        dense: the dense model, of float.
    """

    settings: QuantizationOptions
    given: Calibration
    front: Front
    dense: ir.Model

    @classmethod
    def of(
        cls, settings: QuantizationOptions, given: Calibration, front: Front, dense: ir.Model
    ) -> Quantizer | None:
        """Check the dense model, so that whatever is in the way shows before anything costly starts.

        Args:
            settings: what to quantize to.
            given: data, and where models run.
            front: the model as it came in, and what of it is measured.
            dense: the latter in the form that is calibrated.

        Returns:
            None where nothing is to be quantized.

        Raises:
            OptionError, MissingRuntimeError, ModelError: it cannot be quantized.
        """
        if settings.quantize is None:
            return None
        if uses_bfloat16(front.original):
            raise OptionError(
                f"{settings.quantize} needs float32, and this model is bfloat16: give the float32 model"
            )
        check_quantizable(dense, settings.quantize)
        if settings.quantize == INT8:
            quick, _ = quantize(dense, given.fit, given.runtime)
        else:
            form = _form(settings)
            quick = form.write(nearest_layers(dense, form.forms(dense)))
        if not _sound(given.runtime, dense, quick, given.fit):
            raise ModelError(
                f"outputs of the dense model in {settings.quantize} are no numbers: leave it in float"
            )
        return cls(settings, given, front, dense)

    @cached_property
    def made_dense(self) -> Made:
        """The dense model, quantized."""
        return self.made(self.dense)

    def made(self, model: ir.Model) -> Made:
        """A model quantized, and checked.

        Raises:
            VerificationError: its outputs are no numbers, or a zero did not stay one.
        """
        caches = self.front.caches
        whole = () if caches is None else caches.droppers(model)
        if self.settings.quantize == INT8:
            made = quantize_static(model, self.given, whole)
            if self.settings.quantize_format == QOPERATOR:
                made = self._in_operators(made)
        else:
            made = quantize_weights(model, _form(self.settings), self.given)
        if not _sound(self.given.runtime, model, made.model, self.given.fit):
            raise VerificationError("outputs of the quantized model are no numbers")
        return made

    def _in_operators(self, made: Made) -> Made:
        """The same with operators on integers, and how far their outputs are from those of the pairs."""
        again, feed = as_operators(made.model), next(iter(self.given.fit))
        first, second = (self.given.runtime.session(serialize(one)).run(feed) for one in (made.model, again))
        off = max((relative(second[name], y, norm(y)) for name, y in first.items()), default=0.0)
        left = sum(node.op_type == "DequantizeLinear" for node in again.graph)
        said = (
            f"int8: operators on integers give what pairs of QuantizeLinear and DequantizeLinear give, up to "
            f"{off:.2g} of the outputs on a batch of calibration data; {left} DequantizeLinear are left"
        )
        return Made(again, (*made.notes, said))

    def quantize(self, model: ir.Model) -> Quantized:
        """The pruned model, quantized and checked, and the dense one.

        Raises:
            VerificationError: its outputs are no numbers, or a zero did not stay one.
        """
        dense = self.made_dense
        made = dense if model is self.dense else self.made(model)
        runtime, feed = self.given.runtime, next(iter(self.given.fit))
        expected = runtime.session(serialize(made.model)).run(feed)
        check_model(runtime, made.model, feed, expected, known=complaints(dense.model))
        return Quantized(
            made.model,
            dense.model,
            str(self.settings.quantize),
            self.front,
            made.notes,
            runtime,
            feed,
            expected,
        )


def _form(settings: QuantizationOptions) -> Form:
    return EightBits() if settings.quantize == INT8_WEIGHTS else Blocks(settings.block_size)


@dataclass(frozen=True)
class Quantized:
    """A pruned model in integers.

    Attributes:
        model: the pruned one, quantized.
        dense: the dense one, quantized.
        kind: to which.
        front: where both were cut.
        notes: for the report.
        runtime: where both run.
        feed, expected: a batch of data, and the outputs of ``model``.
    """

    model: ir.Model
    dense: ir.Model
    kind: str
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
