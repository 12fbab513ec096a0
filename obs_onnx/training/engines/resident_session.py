"""A graph whose outputs are its own next inputs: training without copies of weights.

All values that are carried live twice in the runtime's memory. Odd steps read the first and write the second
copy, even steps the other way round; nothing passes through NumPy but the data of a step and its loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes.command.worker.models import first_line, ort_value
from obs_onnx.runtimes.onnxruntime import OrtRuntime

__all__ = ["Measured", "Resident"]

Arrays = Mapping[str, NDArray[Any]]


class Resident:
    """A session with values carried from run to run.

    Args:
        runtime: where it runs.
        model: serialized.
        carried: output -> the input that it is in the next run.
        start: values of the carried inputs at first.

    Raises:
        ModelError: the runtime cannot load the model.
    """

    def __init__(self, runtime: OrtRuntime, model: bytes, carried: Mapping[str, str], start: Arrays) -> None:
        self._session = runtime.unpaired().session(model)
        self._raw = self._session.raw
        self._carried = dict(carried)
        self._names = [spec.name for spec in self._session.outputs if spec.name not in self._carried]
        self._fed = {spec.name for spec in self._session.inputs} - set(self._carried.values())
        self._copies = tuple(
            {
                name: ort_value(self._session.ort, np.array(start[name]), bfloat16=False)
                for name in carried.values()
            }
            for _ in range(2)
        )
        self._turn = 0
        self._bindings = tuple(self._bind(turn) for turn in range(2))

    def _bind(self, turn: int) -> Any:
        binding = self._raw.io_binding()
        for output, name in self._carried.items():
            binding.bind_ortvalue_input(name, self._copies[turn][name])
            binding.bind_ortvalue_output(output, self._copies[1 - turn][name])
        return binding

    def run(self, feed: Arrays) -> Feed:
        """One step; the outputs that are not carried.

        Raises:
            ModelError: the graph fails while running.
        """
        binding = self._bindings[self._turn]
        arrays = {
            name: np.asarray(feed[name], order="C") for name in self._fed
        }  # alive until the run is over
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in self._names:  # anew: an output that was bound keeps the shape of its first run
            binding.bind_output(name)
        try:
            self._raw.run_with_iobinding(binding)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run a training step: {first_line(error)}") from error
        self._turn = 1 - self._turn
        outputs = binding.get_outputs()[len(self._carried) :]
        return {name: value.numpy() for name, value in zip(self._names, outputs, strict=True)}

    def state(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Copies of carried values as they are now."""
        return {name: np.array(self._copies[self._turn][name].numpy()) for name in names}

    def shared(self, names: Sequence[str]) -> dict[str, Any]:
        """The runtime's own values as they are now, valid until the next run."""
        return {name: self._copies[self._turn][name] for name in names}


class Measured:
    """A session whose weights are inputs, to be fed with those of a :class:`Resident`.

    Args:
        runtime: where it runs.
        model: serialized.
    """

    def __init__(self, runtime: OrtRuntime, model: bytes) -> None:
        self._session = runtime.unpaired().session(model)
        self._names = [spec.name for spec in self._session.outputs]
        self._inputs = {spec.name for spec in self._session.inputs}

    def run(self, feed: Arrays, weights: Mapping[str, Any]) -> Feed:
        """Outputs for one feed.

        Raises:
            ModelError: the graph fails while running.
        """
        ort = self._session.ort
        values = {name: ort_value(ort, array, bfloat16=False) for name, array in feed.items()}
        values = {name: value for name, value in {**values, **weights}.items() if name in self._inputs}
        try:
            found = self._session.raw.run_with_ort_values(self._names, values)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return {name: value.numpy() for name, value in zip(self._names, found, strict=True)}
