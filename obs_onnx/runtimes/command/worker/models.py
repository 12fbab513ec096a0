"""Models on onnxruntime, from version 1.15 on: sessions, runs and times."""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import TYPES

if TYPE_CHECKING:
    from .arrays import Typed

LONGEST = 400  # characters of a message
FATAL_ONLY = 4  # severity of messages that onnxruntime prints
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class Refusal(Exception):  # noqa: N818
    """A request that cannot be answered: what kind of reason, and one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def session_options(ort: Any, threads: int, options: Mapping[str, str]) -> Any:
    """``SessionOptions`` with one operator at a time and ``options`` as texts; see docs/runtimes.md."""
    found = ort.SessionOptions()
    found.intra_op_num_threads = threads
    found.inter_op_num_threads = 1
    found.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC"}
    level = options.get("optimize", "all")
    name = "ORT_DISABLE_ALL" if level == "off" else f"ORT_ENABLE_{levels[level]}"
    found.graph_optimization_level = getattr(ort.GraphOptimizationLevel, name)
    found.enable_cpu_mem_arena = options.get("arena") != "off"
    found.enable_mem_pattern = options.get("pattern") != "off"
    found.log_severity_level = FATAL_ONLY
    found.use_deterministic_compute = True
    if options.get("spinning") == "off":
        found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.get("pairs") == "off":
        found.add_session_config_entry("session.disable_quant_qdq", "1")
    return found


def first_line(error: BaseException) -> str:
    """First line of onnxruntime's message without its prefix of codes, cut where it is long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0]).strip()[:LONGEST]


def ort_value(ort: Any, array: Any, *, bfloat16: bool) -> Any:
    """onnxruntime's own value of an array; bfloat16 comes as its bits."""
    make = ort.OrtValue
    array = np.asarray(array, order="C")  # numpy.ascontiguousarray makes an axis where there is none
    if bfloat16:
        return make.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return make.ortvalue_from_numpy(array)


def timed(session: Any, values: Mapping[str, Any], runs: int) -> list[float]:
    """Seconds of each run with inputs bound once: it costs next to nothing beside the model's own work.

    Values are tried first, in the way whose errors say what does not fit. Outputs are bound anew before each
    run, since their sizes may follow from numbers that are drawn, or be others than what is declared.
    """
    names = [one.name for one in session.get_outputs()]
    session.run_with_ort_values(names, values)
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    seconds = []
    for _ in range(runs):
        binding.clear_binding_outputs()
        for name in names:
            binding.bind_output(name)
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - start)
    return seconds


def timed_plainly(session: Any, feed: Mapping[str, Any], runs: int) -> list[float]:
    """The same for values that are not among the runtime's own, such as strings."""
    names = [one.name for one in session.get_outputs()]
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(names, feed)
        seconds.append(time.perf_counter() - start)
    return seconds


def bfloat16_bits(value: Any) -> Any:
    """Copy of the bits of a bfloat16 value, which goes by its address; None for another type."""
    if not value.is_tensor() or value.element_type() != _BFLOAT16:
        return None
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, np.uint16).copy().reshape(shape)


def plain(value: Any) -> Any:
    """A tensor as it is; of a sequence or a map all numbers in a row, by key; of an absent optional none."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list) and value:
        return np.concatenate([plain(part).reshape(-1) for part in value])
    return np.asarray([] if value is None else value, np.float32 if not value else None)


class LoadedModel:
    """A loaded model and the feed of its last timing."""

    def __init__(self, session: Any, ort: Any, threads: int) -> None:
        self.session = session
        self.ort = ort
        self.threads = threads
        self.timed: Typed = ()

    def specs(self) -> dict[str, Any]:
        """Inputs and outputs, as the answer to ``load`` has them."""
        return {
            role: [{"name": one.name, "type": one.type, "shape": one.shape} for one in values]
            for role, values in (
                ("inputs", self.session.get_inputs()),
                ("outputs", self.session.get_outputs()),
            )
        }

    def run(self, feed: Typed, names: Sequence[str]) -> list[tuple[str, str, Any]]:
        """The outputs in ``names``."""
        outputs = {one.name: one.type for one in self.session.get_outputs()}
        names = list(names)
        exotic = any(kind == "bfloat16" for _, kind, _ in feed) or any(
            outputs.get(name) == "tensor(bfloat16)" for name in names
        )
        if not exotic:
            arrays = self.session.run(names, {name: array for name, _, array in feed})
            return [_typed(name, plain(array)) for name, array in zip(names, arrays)]  # noqa: B905
        values = self.session.run_with_ort_values(names, self._values(feed))
        found = []
        for name, value in zip(names, values):  # noqa: B905
            bits = bfloat16_bits(value)
            found.append(_typed(name, value.numpy()) if bits is None else (name, "bfloat16", bits))
        return found

    def time(self, feed: Typed, runs: int) -> list[float]:
        """Seconds of each run."""
        if any(kind == "string" for _, kind, _ in feed):
            return timed_plainly(self.session, {name: array for name, _, array in feed}, runs)
        return timed(self.session, self._values(feed), runs)

    def _values(self, feed: Typed) -> dict[str, Any]:
        try:
            return {
                name: ort_value(self.ort, array, bfloat16=kind == "bfloat16") for name, kind, array in feed
            }
        except AttributeError as error:
            raise Refusal("model", f"onnxruntime {self.ort.__version__} is too old for bfloat16") from error


def _typed(name: str, array: Any) -> tuple[str, str, Any]:
    kind = "string" if array.dtype.kind in "OUS" else array.dtype.name
    if kind != "string" and kind not in TYPES:
        raise Refusal("model", f"output {name!r} is {kind}, which cannot be sent")
    return name, kind, array
