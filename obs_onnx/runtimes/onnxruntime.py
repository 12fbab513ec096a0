"""onnxruntime with any execution provider."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.meter import loading, running
from obs_onnx.passes.canonical.fixed_numbers import FixNumbers
from obs_onnx.passes.errors import DataError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.runtimes.base import ModelSource, Runtime
from obs_onnx.runtimes.command.worker.models import (
    bfloat16_bits,
    first_line,
    ort_value,
    plain,
    session_options,
    timed,
    timed_plainly,
)
from obs_onnx.runtimes.machine import describe_machine, usable_cores
from obs_onnx.runtimes.on_device import OnDevice
from obs_onnx.runtimes.registry import to_install
from obs_onnx.runtimes.spec import ORT_OPTIONS, Options, check_options, format_spec

__all__ = [
    "QUANTUM",
    "OrtRuntime",
    "OrtSession",
    "abreast",
    "check_threads",
    "find_provider",
    "first_line",
    "import_onnxruntime",
    "tensor_spec",
]

QUANTUM = 8  # convolutions on CPUs and GPUs run in steps of 8 or 16 channels

_DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "bool": np.dtype(np.bool_),
    "string": np.dtype(object),
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_CPU = "CPUExecutionProvider"
_DEVICES = {"CUDAExecutionProvider": "cuda"}  # whose memory values may stay in, as onnxruntime calls them
_ABREAST = 2  # batches that are run at once
_FATAL_ONLY = 4  # errors are raised, and need no second text on stderr


class OrtSession:
    """A model loaded by onnxruntime.

    Attributes:
        inputs, outputs: see :class:`obs_onnx.runtimes.base.Session`.
        raw: onnxruntime's own session, for those who bind values themselves.
        ort: the package.
        device: where outputs may stay, as onnxruntime calls it; None where that is this process' memory.
    """

    def __init__(self, session: Any, ort: Any, device: str | None = None) -> None:
        self.raw = session
        self.ort = ort
        self.device = device
        self.inputs = tuple(tensor_spec(value, "input") for value in session.get_inputs())
        self.outputs = tuple(tensor_spec(value, "output") for value in session.get_outputs())

    @running()
    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        """Output name -> array for one complete feed.

        Raises:
            DataError: the feed does not fit the inputs.
            ModelError: the model fails while running.
        """
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        wanted = set(names)
        exotic = any(_is_bfloat16(array) for array in feed.values()) or any(
            spec.dtype == ml_dtypes.bfloat16 for spec in self.outputs if spec.name in wanted
        )
        try:
            if exotic:
                values = self.raw.run_with_ort_values(names, self._ort_values(feed))
                return {name: _to_numpy(value) for name, value in zip(names, values, strict=True)}
            arrays = self.raw.run(names, dict(feed))
        except Exception as error:
            raise _run_error(error) from error
        return dict(zip(names, map(plain, arrays), strict=True))

    @running()
    def run_bound(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> OnDevice:
        """The same as :meth:`run`; outputs stay on the device, and inputs may lie there already.

        Args:
            feed: holds all inputs; those of :class:`OnDevice` are not copied.
            outputs: names of those that are wanted.

        Raises:
            DataError, ModelError: see :meth:`run`.
        """
        held = feed.held if isinstance(feed, OnDevice) else feed
        given = {spec.name: held[spec.name] for spec in self.inputs}
        wanted = {spec.name: spec for spec in self.outputs}
        kinds = [one.dtype for one in given.values() if isinstance(one, np.ndarray)]
        kinds += [wanted[name].dtype for name in outputs]
        if not any(kind == ml_dtypes.bfloat16 or kind.kind in "OUS" for kind in kinds):
            with suppress(Exception):  # a run from here says better what does not fit
                return self._bound(given, outputs)
        return OnDevice(self.run({name: feed[name] for name in given}, outputs))

    def _bound(self, given: Mapping[str, Any], outputs: Sequence[str]) -> OnDevice:
        binding = self.raw.io_binding()
        for name, value in given.items():
            if isinstance(value, np.ndarray):
                array = np.asarray(value, order="C")
                value = self.ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, self.device, 0)
        self.raw.run_with_iobinding(binding)
        return OnDevice(dict(zip(outputs, binding.get_outputs(), strict=True)))

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` runs; the feed is bound once, and outputs stay in the runtime."""
        strings = any(array.dtype.kind in "OUS" for array in feed.values())  # not among its own values
        try:
            if strings:
                return timed_plainly(self.raw, dict(feed), runs)
            return timed(self.raw, self._ort_values(feed), runs)
        except Exception as error:
            raise _run_error(error) from error

    def _ort_values(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Feed as onnxruntime's own values (the only way in for bfloat16)."""
        return {
            name: ort_value(self.ort, array.view(np.uint16), bfloat16=True)
            if _is_bfloat16(array)
            else ort_value(self.ort, array, bfloat16=False)
            for name, array in feed.items()
        }


class OrtRuntime:
    """onnxruntime with one execution provider (and the CPU for what that one lacks).

    Args:
        provider: full name, or its start in any case (``cuda``); None or empty for the CPU.
        threads: of one operator; None for the physical cores this process may use.
        custom_ops: paths of libraries with custom operators.
        options: of the session, see docs/runtimes.md.
        spinning: False lets idle threads sleep at once, unless ``options`` say otherwise: slower single runs,
            but other work gets the cores.

    Raises:
        MissingRuntimeError: onnxruntime is not installed.
        OptionError: provider not available, threads below 1, an unknown option, or a library that does not
            exist.
    """

    in_process = True
    maps = True
    affinity = None
    quantum = QUANTUM

    def __init__(
        self,
        provider: str | None = None,
        threads: int | None = None,
        custom_ops: tuple[str, ...] = (),
        *,
        options: Options | None = None,
        spinning: bool = True,
    ) -> None:
        check_threads(threads)
        self.options = dict(options or {})
        check_options("onnxruntime", self.options, ORT_OPTIONS)
        self._ort = import_onnxruntime()
        self.provider = find_provider(provider or None, self._ort.get_available_providers())
        self.spec = format_spec("onnxruntime", provider and self.provider, self.options)
        self.threads = usable_cores() if threads is None else threads
        self.custom_ops = tuple(custom_ops)
        self.device = _DEVICES.get(self.provider)
        self._steady = False
        self._session_options = self.options if spinning else {"spinning": "off", **self.options}
        for library in self.custom_ops:
            if not Path(library).is_file():
                raise OptionError(f"library of custom operators {library!r} does not exist")

    def holding(self, device: str) -> OrtRuntime:
        """The same, where what a part of a model gives stays on a device until it is looked at."""
        other = copy(self)
        other.device = device
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without the package, which another process has itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_ort"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _ort=import_onnxruntime())

    def steadied(self) -> OrtRuntime:
        """The same, where models that are given as bytes draw the same numbers in every run.

        See :class:`obs_onnx.passes.canonical.fixed_numbers.FixNumbers`.
        """
        other = copy(self)
        other._steady = True
        return other

    def unfused(self) -> OrtRuntime:
        """The same, where each operator of a model is computed as it stands there.

        What onnxruntime makes of several operators may round otherwise than they do.
        """
        other = copy(self)
        other._session_options = {**self._session_options, "optimize": "basic"}
        return other

    @loading()
    def session(self, model: ModelSource, external_data: str | PathLike[str] | None = None) -> OrtSession:
        """Load ``model``; see :meth:`obs_onnx.runtimes.base.Runtime.session`."""
        if self._steady and isinstance(model, bytes):
            fixed = FixNumbers()(ir.from_proto(onnx.load_from_string(model))).model
            model = ir.to_proto(fixed).SerializeToString()
        if not isinstance(model, bytes):
            model = os.fspath(model)
            if not Path(model).is_file():
                raise ModelError(f"model {model} does not exist")
        providers = list(dict.fromkeys([self.provider, _CPU]))
        options = self._options(external_data)
        try:
            session = self._ort.InferenceSession(model, options, providers=providers)
        except Exception as error:
            name = "the model" if isinstance(model, bytes) else model
            hint = "; give its library with custom_ops" if "is not a registered" in str(error) else ""
            raise ModelError(f"onnxruntime cannot load {name}: {first_line(error)}{hint}") from error
        if self.provider not in session.get_providers():
            raise OptionError(
                f"{self.provider} did not start on this machine: check its driver and libraries"
            )
        return OrtSession(session, self._ort, self.device)

    def environment(self) -> dict[str, Any]:
        """Name, version, provider, threads, and the options that were given."""
        return {
            "runtime": "onnxruntime",
            "version": str(self._ort.__version__),
            "provider": self.provider,
            "threads": self.threads,
            **({"options": self._session_options} if self._session_options else {}),
        }

    def machine(self) -> dict[str, Any]:
        """This machine, see :func:`obs_onnx.runtimes.machine.describe_machine`."""
        return describe_machine()

    def _options(self, external_data: str | PathLike[str] | None) -> Any:
        options = session_options(self._ort, self.threads, self._session_options)
        if external_data is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.fspath(external_data)
            )
            options.add_session_config_entry("session.disable_prepacking", "1")  # which makes copies
        for library in self.custom_ops:
            try:
                options.register_custom_ops_library(library)
            except Exception as error:
                raise OptionError(f"cannot load custom operators {library!r}: {first_line(error)}") from error
        return options


def abreast(runtime: Runtime) -> tuple[Runtime, int]:
    """A runtime for sessions that so many threads run at once, each with its part of the cores.

    An operator is not worth dividing among cores where there are several batches: its threads wait for each
    other after every one. Only onnxruntime on the CPU promises that a session may be run so.
    """
    if not isinstance(runtime, OrtRuntime) or runtime.provider != _CPU or runtime.threads < _ABREAST:
        return runtime, 1
    other = copy(runtime)
    other.threads = runtime.threads // _ABREAST
    return other, _ABREAST


def check_threads(threads: int | None) -> None:
    """Raise OptionError for a number of threads below 1."""
    if threads is not None and threads < 1:
        raise OptionError(f"threads={threads}: use at least 1")


def import_onnxruntime() -> Any:
    """The package, quiet; MissingRuntimeError without a whole one."""
    try:
        import onnxruntime
    except ImportError as error:
        if error.name not in (None, "onnxruntime"):
            raise
        raise MissingRuntimeError(
            f"onnxruntime is not installed: install {to_install('onnxruntime')}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingRuntimeError(
            "the onnxruntime installation is broken (two flavours in one environment?): uninstall all of "
            f"them, then install {to_install('onnxruntime')}"
        )
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    return onnxruntime


def find_provider(wanted: str | None, available: Sequence[str], where: str = "here") -> str:
    """Full name of the provider that ``wanted`` is the start of; the CPU for None."""
    if wanted is None:
        return _CPU
    for name in available:
        if wanted.lower() in (name.lower(), name.lower().removesuffix("executionprovider")):
            return name
    raise OptionError(f"onnxruntime has no provider {wanted!r} {where}; available: {', '.join(available)}")


def tensor_spec(value: Any, role: str) -> TensorSpec:
    """Of an input or output with ``name``, ``type`` and ``shape`` as onnxruntime gives them."""
    match = re.fullmatch(r"tensor\((\w+)\)", value.type)
    dtype = _DTYPES.get(match[1]) if match else None
    if dtype is None:
        if role == "input":
            raise ModelError(f"input {value.name!r} is a {value.type}: only plain tensors can be fed")
        dtype = np.dtype(object)
    return TensorSpec(value.name, tuple(size or None for size in value.shape), dtype)


def _is_bfloat16(array: NDArray[Any]) -> bool:
    return bool(array.dtype == ml_dtypes.bfloat16)


def _to_numpy(value: Any) -> NDArray[Any]:
    """Copy of a value that onnxruntime gives out; bfloat16 goes by its address."""
    bits = bfloat16_bits(value)
    result: NDArray[Any] = value.numpy() if bits is None else bits.view(ml_dtypes.bfloat16)
    return result


def _run_error(error: Exception) -> DataError | ModelError:
    message = f"onnxruntime cannot run the model: {first_line(error)}"
    if "INVALID_ARGUMENT" in str(error) or isinstance(error, ValueError):
        return DataError(message)
    return ModelError(message)
