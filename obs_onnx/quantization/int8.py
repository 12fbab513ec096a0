"""Integers of 8 bits by onnxruntime's own static quantization, with a scale for each channel of a weight.

A weight becomes ``q = round(w / s)`` with one scale ``s`` for each output channel and zero point 0, so that a
zero stays a zero. ActivationCache become unsigned integers with one scale and zero point for each tensor,
from the smallest and the largest value seen in calibration. In the file a pair QuantizeLinear,
DequantizeLinear stands before every operator that a runtime may compute in integers (format QDQ): standard
operators only.

Of what onnxruntime offers, unsigned activations ran two to three times as fast as signed ones on an x86
processor at the same accuracy. Ranges by entropy or percentiles were no better for convolutional networks; a
vision transformer gained a little from percentiles, which hold all activations of all samples in memory.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.data.sources import Source
from obs_onnx.io.onnx_file import from_proto, serialize
from obs_onnx.passes.errors import (
    InputError,
    MissingRuntimeError,
    ModelError,
    OptionError,
    VerificationError,
    named,
)
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.node_facts import FLOATS
from obs_onnx.passes.ops import lookup
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import open_part, run_feed

__all__ = ["check_quantizable", "check_quantized_zeros", "quantize"]

_SAMPLES, _BATCH = 512, 32
_INFINITY = 5e3  # masks use numbers from 1e4 to the largest float
_PER_CHANNEL_OPSET = 13  # the first with an axis of DequantizeLinear
_SUFFIX = "_quantized"  # of a weight's name, by onnxruntime


def check_quantizable(model: ir.Model) -> None:
    """Refuse what cannot be quantized, before anything is computed.

    Raises:
        OptionError: the model is quantized already, is not of float32, or has nothing to quantize.
        ModelError: it is larger than 2 GB.
        MissingRuntimeError: this flavour of onnxruntime has no quantization.
    """
    _import_quantization()
    found = False
    for node in model.graph:
        if "Quant" in node.op_type or node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
            raise OptionError(
                f"{named('quantize', 'int8')}: node {node.name} ({node.op_type}) is quantized already"
            )
        for value in node.inputs if lookup(node).weights else ():
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or tensor.dtype not in FLOATS:
                continue
            if tensor.dtype != ir.DataType.FLOAT:
                raise OptionError(
                    f"{named('quantize', 'int8')} needs float32, and {value.name} is "
                    f"{tensor.dtype.name.lower()}: give the float32 model"
                )
            found = True
    if not found:
        raise OptionError(
            f"{named('quantize', 'int8')}: no Conv, Gemm or MatMul has a constant weight: "
            "there is nothing to quantize"
        )
    serialize(model)


def quantize(
    model: ir.Model, source: Source, runtime: Runtime, exclude: Sequence[str] = ()
) -> tuple[ir.Model, tuple[str, ...]]:
    """The model in integers of 8 bits, and notes for the user.

    Args:
        model: of float32, which :func:`check_quantizable` has passed; stays as it is.
        source: calibration data for the ranges of activations; at most 512 samples are read.
        runtime: where the model runs.
        exclude: names of nodes that stay as they are.

    Raises:
        ModelError: onnxruntime cannot quantize it.
        VerificationError: a zero of a weight did not stay one.
    """
    quantization = _import_quantization()
    proto, notes = _with_axes(onnx.ModelProto.FromString(serialize(model)), source, runtime)
    with tempfile.TemporaryDirectory(prefix="obs-onnx.") as folder, _quiet():
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(proto.SerializeToString())
        try:
            quantization.quantize_static(
                before,
                after,
                _Reader(source),
                quant_format=quantization.QuantFormat.QDQ,
                nodes_to_exclude=[*exclude, *_masked(model, source, runtime)],
                per_channel=not notes,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            written = after.read_bytes()
        except InputError:  # of the calibration data
            raise
        except Exception as error:  # onnxruntime and onnx raise many kinds
            line = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(
                f"onnxruntime cannot quantize the model: {line}; leave out {named('quantize')}"
            ) from error
    result = from_proto(onnx.ModelProto.FromString(written), where="the quantized model")
    check_quantized_zeros(model, result)
    return result, notes


def _masked(model: ir.Model, source: Source, runtime: Runtime) -> list[str]:
    """Nodes that read or write values which stand for minus infinity: no scale suits these and others."""
    inputs = input_names(model)
    values = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    session = open_part(runtime, extract(model, inputs, [str(value.name) for value in values]))
    feed = next(iter(source.rebatch(1)))
    found = {**feed, **run_feed(session, feed)}
    found |= {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
    }
    large = {
        name
        for name, array in found.items()
        if array.dtype == np.float32 and array.size and not np.abs(array).max() < _INFINITY
    }
    return [
        str(node.name)
        for node in model.graph
        if any(value is not None and value.name in large for value in (*node.inputs, *node.outputs))
    ]


def check_quantized_zeros(dense: ir.Model, quantized: ir.Model) -> int:
    """Check that every zero of a float weight is a zero of the quantized one; how many there are.

    Raises:
        VerificationError: one is not, or a weight (not a bias, which onnxruntime may copy) is missing.
    """
    count = 0
    for name, value in dense.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not any(use.idx in lookup(use.node).weights for use in value.uses()):
            continue
        zeros, found = tensor.numpy() == 0, _weight(quantized.graph, name)
        if found is None or found.shape != zeros.shape:
            raise VerificationError(f"weight {name} is missing after quantization")
        if found[zeros].any():
            raise VerificationError(f"zeros of weight {name} are no zeros after quantization")
        count += int(zeros.sum())
    return count


def _weight(graph: ir.Graph, name: str) -> NDArray[Any] | None:
    """A weight as it is stored: float, or integers less their zero point."""
    for stored, zero_point in ((name + _SUFFIX, f"{name}_zero_point"), (name, "")):
        if (value := graph.initializers.get(stored)) is not None and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float64)
            point = graph.initializers.get(zero_point)
            if point is not None and point.const_value is not None and point.const_value.numpy().any():
                raise VerificationError(f"the zero point of weight {name} is not 0 after quantization")
            return array
    return None


def _with_axes(
    proto: onnx.ModelProto, source: Source, runtime: Runtime
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in an opset that knows scales per channel; as it is, and a note, where that does not work."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= _PER_CHANNEL_OPSET:
        return proto, ()
    feed = next(iter(source.rebatch(1)))
    try:
        newer = onnx.version_converter.convert_version(proto, _PER_CHANNEL_OPSET)
        expected, found = (runtime.session(one.SerializeToString()).run(feed) for one in (proto, newer))
        same = all(np.allclose(found[name], array, 1e-3, 1e-5) for name, array in expected.items())
    except Exception:  # of onnx or of the runtime: then the newer opset is no way
        same = False
    if same:
        return newer, ()
    return proto, (
        f"int8: one scale for each weight, as opset {opset} knows none per channel: "
        f"convert the model to opset {_PER_CHANNEL_OPSET} for a better result",
    )


class _Reader:
    """Calibration data the way onnxruntime asks for it."""

    def __init__(self, source: Source) -> None:
        self._feeds = iter(source.limit(_SAMPLES).rebatch(_BATCH))

    def get_next(self) -> Feed | None:
        """The next feed; None after the last one."""
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on the terminal: onnxruntime prints, and sets up the root logger when it warns."""
    handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)


def _import_quantization() -> Any:
    try:
        import onnxruntime.quantization as quantization
    except ImportError as error:
        raise MissingRuntimeError(
            f"{named('quantize')} needs onnxruntime with its quantization: install obs-onnx[cpu]"
        ) from error
    return quantization
