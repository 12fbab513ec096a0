"""OpenVINO with any of its devices."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.io.onnx_file import parse
from obs_onnx.meter import loading, running
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes.base import ModelSource
from obs_onnx.runtimes.machine import describe_machine, usable_cores
from obs_onnx.runtimes.onnxruntime import QUANTUM, check_threads
from obs_onnx.runtimes.registry import to_install
from obs_onnx.runtimes.spec import Options, check_options, format_spec

__all__ = ["OpenVinoRuntime", "OpenVinoSession"]

_PRECISION = "INFERENCE_PRECISION_HINT"
_OPTIONS = {"precision": ("f32", "f16", "bf16", "undefined")}
_NOISE = re.compile(r"Exception from|Check '|FrontEnd API failed|Model wasn't fully|Summary|To facilitate")


class OpenVinoSession:
    """A model compiled by OpenVINO.

    Args:
        compiled: OpenVINO's compiled model.
        inputs, outputs: of the model, in its order; kept under these names.
        places: of the inputs, by name.
        openvino: the package.
    """

    def __init__(
        self,
        compiled: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        places: Mapping[str, int],
        openvino: Any,
    ) -> None:
        self._openvino = openvino
        self._places = dict(places)
        self._request = compiled.create_infer_request()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._fed: list[NDArray[Any]] = []  # some tensors share the memory of their array

    @running()
    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        """Output name -> array for one complete feed.

        Raises:
            DataError: the feed does not fit the inputs, or there is no such output.
            ModelError: the model fails while running.
        """
        places = {spec.name: place for place, spec in enumerate(self.outputs)}
        names = list(places) if outputs is None else list(outputs)
        for name in names:
            if name not in places:
                raise DataError(f"openvino cannot run the model: it has no output {name!r}")
        self._bind(feed)
        try:
            self._request.infer()
            return {name: self._output(places[name]) for name in names}
        except Exception as error:
            raise ModelError(f"openvino cannot run the model: {reason(error)}") from error

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` runs; the feed is bound once, outputs stay in the runtime.

        Raises:
            DataError, ModelError: as for :meth:`run`.
        """
        self._bind(feed)
        seconds = []
        try:
            for _ in range(runs):
                start = time.perf_counter()
                self._request.infer()
                seconds.append(time.perf_counter() - start)
        except Exception as error:
            raise ModelError(f"openvino cannot run the model: {reason(error)}") from error
        return seconds

    def _bind(self, feed: Mapping[str, NDArray[Any]]) -> None:
        if set(feed) != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise DataError(f"openvino cannot run the model: its inputs are {wanted}, not {', '.join(feed)}")
        self._fed.clear()
        for spec in self.inputs:
            array = np.ascontiguousarray(feed[spec.name]).reshape(feed[spec.name].shape)
            if array.dtype != spec.dtype:
                raise DataError(
                    f"openvino cannot run the model: input {spec.name!r} is {spec.dtype}, not {array.dtype}"
                )
            self._fed.append(array)
            try:
                self._request.set_input_tensor(self._places[spec.name], self._tensor(array))
            except Exception as error:
                raise DataError(f"openvino cannot run the model: {reason(error)}") from error

    def _tensor(self, array: NDArray[Any]) -> Any:
        tensor = self._openvino.Tensor
        if array.dtype == ml_dtypes.bfloat16:
            return tensor(array.view(np.uint16), list(array.shape), self._openvino.Type.bf16)
        return tensor(array)

    def _output(self, place: int) -> NDArray[Any]:
        data, want = self._request.get_output_tensor(place).data, self.outputs[place].dtype
        result: NDArray[Any] = np.array(data.view(want) if want == ml_dtypes.bfloat16 else data)
        return result


class OpenVinoRuntime:
    """OpenVINO on one device, set for the latency of single runs.

    Args:
        device: as OpenVINO calls it: ``CPU``, ``GPU``, ``NPU``, ``AUTO:GPU,CPU`` ...; by default the CPU.
        threads: of one operator on the CPU; None for the physical cores this process may use.
        custom_ops: none can be given.
        options: ``precision``, see docs/runtimes.md; by default the device's own, as in a model that is
            deployed with OpenVINO's defaults.
        spinning: changes nothing, OpenVINO has no such setting.

    Raises:
        MissingRuntimeError: OpenVINO is not installed.
        OptionError: no such device, an unknown option, custom operators, or threads below 1.
    """

    in_process = True
    maps = False
    affinity = None
    quantum = QUANTUM

    def __init__(
        self,
        device: str = "",
        threads: int | None = None,
        custom_ops: tuple[str, ...] = (),
        *,
        options: Options | None = None,
        spinning: bool = True,
    ) -> None:
        check_threads(threads)
        if custom_ops:
            raise OptionError("the runtime openvino takes no libraries of custom operators")
        self.options = dict(options or {})
        check_options("openvino", self.options, _OPTIONS)
        self._openvino = _import_openvino()
        self._core = self._openvino.Core()
        self.device = (device or "CPU").upper()
        self.spec = format_spec("openvino", self.device, self.options)
        self.threads = usable_cores() if threads is None else threads
        if self.device.split(":")[0].split(".")[0] not in ("AUTO", "HETERO", "MULTI"):
            available = self._core.available_devices
            if not any(self.device in (one, one.split(".")[0]) for one in available):
                raise OptionError(
                    f"openvino has no device {device!r} here; available: {', '.join(available)}"
                )

    @loading()
    def session(
        self, model: ModelSource, external_data: str | PathLike[str] | None = None
    ) -> OpenVinoSession:
        """Compile ``model``; see :meth:`obs_onnx.runtimes.base.Runtime.session`."""
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        try:
            data = model if isinstance(model, bytes) else Path(model).read_bytes()
        except OSError as error:
            what = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
            raise ModelError(f"model {name} {what}") from error
        proto = parse(data)
        if proto is None or not proto.graph.node:
            raise ModelError(f"openvino cannot load {name}: it is no ONNX model")
        given = {tensor.name for tensor in proto.graph.initializer}
        inputs = [_spec(value, "input") for value in proto.graph.input if value.name not in given]
        outputs = [_spec(value, "output") for value in proto.graph.output]
        try:
            if isinstance(model, bytes) and external_data is not None:
                onnx.external_data_helper.load_external_data_for_model(proto, os.fspath(external_data))
                model = proto.SerializeToString()
            read = self._core.read_model(model if isinstance(model, bytes) else name)
            compiled = self._core.compile_model(read, self.device, self._properties())
        except Exception as error:
            raise ModelError(f"openvino cannot load {name}: {reason(error)}") from error
        places = {one: place for place, port in enumerate(compiled.inputs) for one in port.get_names()}
        if {spec.name for spec in inputs} - set(places) or len(compiled.inputs) != len(inputs):
            raise ModelError(f"openvino cannot load {name}: it changes its inputs")
        if len(compiled.outputs) != len(outputs):
            raise ModelError(f"openvino cannot load {name}: it changes its outputs")
        return OpenVinoSession(compiled, inputs, outputs, places, self._openvino)

    def environment(self) -> dict[str, Any]:
        """Name, version, device, threads, precision."""
        device = None
        if ":" not in self.device and self.device in self._core.available_devices:
            device = str(self._core.get_property(self.device, "FULL_DEVICE_NAME"))
        return {
            "runtime": "openvino",
            "version": str(self._openvino.get_version()),
            "provider": self.device,
            "device": device,
            "threads": self.threads,
            "precision": self._precision() or "the device's own",
        }

    def machine(self) -> dict[str, Any]:
        """This machine, see :func:`obs_onnx.runtimes.machine.describe_machine`."""
        return describe_machine()

    def _precision(self) -> str | None:
        """The one asked for, or what the device takes by itself, where it says so."""
        if "precision" in self.options or self.device not in self._core.available_devices:
            return self.options.get("precision")
        if _PRECISION not in self._core.get_property(self.device, "SUPPORTED_PROPERTIES"):
            return None
        return str(self._core.get_property(self.device, _PRECISION).get_type_name())

    def _properties(self) -> dict[str, Any]:
        """Settings that give one run all threads, and leave the choice of cores to who called."""
        found: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self._precision() is not None:
            found[_PRECISION] = self._precision()
        if self.device == "CPU":
            found |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": self.threads, "ENABLE_CPU_PINNING": False}
        return found


def reason(error: BaseException) -> str:
    """What OpenVINO's message says, without where in its sources it was raised."""
    lines = (line.strip().removeprefix("-- ") for line in str(error).splitlines())
    said = [line for line in lines if line and not _NOISE.match(line) and not line.endswith(":")]
    return "; ".join(dict.fromkeys(said[:2])) or type(error).__name__


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        if error.name not in (None, "openvino"):
            raise
        raise MissingRuntimeError(f"openvino is not installed: install {to_install('openvino')}") from error
    return openvino


def _spec(value: onnx.ValueInfoProto, role: str) -> TensorSpec:
    """Name, shape and type as the model says."""
    tensor = value.type.tensor_type
    kind = tensor.elem_type
    if not value.type.HasField("tensor_type") or kind in (0, onnx.TensorProto.STRING):
        raise ModelError(f"openvino cannot load the model: {role} {value.name!r} is no tensor of numbers")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
        )
    return TensorSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)))
