"""Integers of 8 bits, written by onnxruntime's own static quantization.

A weight becomes ``q = round(w / s)`` with one scale ``s`` for each output channel and zero point 0, so that a
zero stays a zero. Activations become unsigned integers with one scale and zero point for each tensor. In the
file a pair QuantizeLinear, DequantizeLinear stands before every operator that a runtime may compute in
integers (format QDQ): standard operators only.

By itself onnxruntime takes the smallest and the largest value seen in calibration, and the scale that reaches
the largest weight (:func:`quantize`). What :mod:`.rounded_layers` and :mod:`.activation_ranges` find replaces
these in what it writes (:func:`weight_scales`, :func:`activation_names`). Unsigned activations ran two to
three times as fast as signed ones on an x86 processor at the same accuracy.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from obs_onnx.passes.errors import MissingRuntimeError, OptionError, VerificationError, boundary, tried
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.node_facts import FLOATS
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.ops import lookup
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import open_part, run_feed

__all__ = [
    "Override",
    "activation_names",
    "check_quantizable",
    "check_quantized_zeros",
    "quantize",
    "range_override",
    "weight_override",
    "weight_scales",
]

_SAMPLES, _BATCH = 512, 32
_INFINITY = 5e3  # masks use numbers from 1e4 to the largest float
_PER_CHANNEL_OPSET = 13  # the first with an axis of DequantizeLinear
_SUFFIX = "_quantized"  # of a weight's name, by onnxruntime

Override = Sequence[Mapping[str, object]]
"""What onnxruntime's ``TensorQuantOverrides`` says of a tensor."""


def check_quantizable(model: ir.Model, kind: str = "int8") -> None:
    """Refuse what cannot be quantized, before anything is computed.

    Args:
        model: canonical.
        kind: to which it is to be quantized, for messages.

    Raises:
        OptionError: the model is quantized already, is not of float32, or has nothing to quantize.
        ModelError: it is larger than 2 GB.
        MissingRuntimeError: this flavour of onnxruntime has no quantization.
    """
    if kind == "int8":
        _import_quantization()
    found = False
    if held := [layer for layer in find_layers(model)[0] if layer.integers is not None]:
        raise OptionError(f"{kind}: weight {held[0].name} is quantized already: give the float model")
    for node in model.graph:
        if lookup(node).quantizes:
            raise OptionError(
                f"{kind}: node {node.name} ({node.op_type}) is quantized already: give the float model"
            )
        for value in node.inputs if lookup(node).weights else ():
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or tensor.dtype not in FLOATS:
                continue
            if tensor.dtype != ir.DataType.FLOAT:
                raise OptionError(
                    f"{kind} needs float32, and {value.name} is "
                    f"{tensor.dtype.name.lower()}: give the float32 model"
                )
            found = True
    if not found:
        raise OptionError(
            f"{kind}: no Conv, Gemm or MatMul has a constant weight: there is nothing to quantize"
        )
    serialize(model)


def quantize(
    model: ir.Model,
    source: Source,
    runtime: Runtime,
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Override] | None = None,
) -> tuple[ir.Model, tuple[str, ...]]:
    """The model in integers of 8 bits, and notes for the user.

    Args:
        model: of float32, which :func:`check_quantizable` has passed; stays as it is.
        source: calibration data for the ranges of activations; at most 512 samples are read.
        runtime: where the model runs.
        exclude: names of nodes that stay as they are.
        overrides: scales of weights and ranges of activations, in the form that onnxruntime takes; given, all
            ranges are known and a few samples are read.

    Raises:
        ModelError: onnxruntime cannot quantize it.
        VerificationError: a zero of a weight did not stay one.
    """
    quantization = _import_quantization()
    proto, notes = _with_axes(onnx.ModelProto.FromString(serialize(_apart(model))), source, runtime)
    with tempfile.TemporaryDirectory(prefix="obs-onnx.") as folder, _quiet():
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(proto.SerializeToString())
        with boundary("onnxruntime cannot quantize the model"):
            quantization.quantize_static(
                before,
                after,
                _Reader(source.limit(_SAMPLES if overrides is None else _BATCH)),
                quant_format=quantization.QuantFormat.QDQ,
                nodes_to_exclude=[*exclude, *_masked(model, source, runtime)],
                per_channel=not notes,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "TensorQuantOverrides": {} if overrides is None else {**overrides},
                },
            )
            written = after.read_bytes()
    result = from_proto(onnx.ModelProto.FromString(written), where="the quantized model")
    check_quantized_zeros(model, result)
    return result, notes


def _apart(model: ir.Model) -> ir.Model:
    """The model without constants that are called as onnxruntime calls what belongs to another one."""
    stored = model.graph.initializers
    ends = (_SUFFIX, "_scale", "_zero_point")
    taken = [
        name for name in stored for end in ends if name.endswith(end) and name.removesuffix(end) in stored
    ]
    if not taken:
        return model
    copy = model.clone()
    names = Names(copy)
    for name in taken:
        value = copy.graph.initializers[name]
        if not value.is_graph_input():
            value.name = names.fresh(f"{name}.own")
    return copy


def weight_scales(quantized: ir.Model) -> Mapping[str, tuple[NDArray[Any], int | None]]:
    """Scales of the weights of a model that :func:`quantize` has made, and the axis they lie along."""
    found = {}
    for node in quantized.graph:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        tensor, scale = node.inputs[0].const_value, node.inputs[1].const_value
        if tensor is None or scale is None or tensor.dtype != ir.DataType.INT8:
            continue
        axis = node_facts.int_attribute(node, "axis", 1) if scale.size > 1 else None
        found[str(node.inputs[0].name).removesuffix(_SUFFIX)] = (scale.numpy(), axis)
    return found


def activation_names(quantized: ir.Model, model: ir.Model) -> list[str]:
    """Values of a model that become integers in what :func:`quantize` has made of it."""
    known = {str(value.name) for node in model.graph for value in node.outputs}
    known |= {str(value.name) for value in model.graph.inputs}
    read = [node.inputs[0] for node in quantized.graph if node.op_type == "QuantizeLinear"]
    names = (str(value.name) for value in read if value is not None)
    return [name for name in dict.fromkeys(names) if name in known]


def weight_override(scale: NDArray[np.float32], axis: int | None) -> Override:
    """What tells onnxruntime the scales of a weight."""
    zero, kind = np.int8(0), _import_quantization().QuantType.QInt8
    along: Mapping[str, object] = {} if axis is None else {"axis": axis}
    return [{"quant_type": kind, "scale": one, "zero_point": zero, **along} for one in np.atleast_1d(scale)]


def range_override(low: float, high: float) -> Override:
    """What tells onnxruntime the range of an activation."""
    return [{"rmin": np.float32(low), "rmax": np.float32(high)}]


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

    def convert() -> onnx.ModelProto | None:
        newer = onnx.version_converter.convert_version(proto, _PER_CHANNEL_OPSET)
        expected, found = (runtime.session(one.SerializeToString()).run(feed) for one in (proto, newer))
        same = all(np.allclose(found[name], array, 1e-3, 1e-5) for name, array in expected.items())
        return newer if same else None

    newer = tried("converting the opset", convert, None).value
    if newer is not None:
        return newer, ()
    return proto, (
        f"int8: one scale for each weight, as opset {opset} knows none per channel: "
        f"convert the model to opset {_PER_CHANNEL_OPSET} for a better result",
    )


class _Reader:
    """Calibration data the way onnxruntime asks for it."""

    def __init__(self, source: Source) -> None:
        self._feeds = iter(source.rebatch(_BATCH))

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
            "integers need onnxruntime with its quantization: install obs-onnx[cpu]"
        ) from error
    return quantization
