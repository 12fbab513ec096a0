"""Models that are too large to be loaded at once, run block by block.

Of a block the weights are mapped from the files they lie in where the runtime can do that; otherwise they are
copied for as long as the block runs. No message holds the weights of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.scratch import let_go
from obs_onnx.io.tensors import referring, size_of
from obs_onnx.passes.errors import DataError, ModelError
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.layers.blocks import Block, cut_into_blocks
from obs_onnx.runtimes.base import Runtime, Session

__all__ = ["LARGE_BYTES", "BlockSession", "declare_fed", "is_large", "is_weighty", "open_at_once"]

LARGE_BYTES = 1 << 30
"""Weights of a model that is loaded at once, at most."""

_BLOCKS = 4  # that hold as much

_RANKS = 8  # no tensor has more axes

_WEIGHTY = 0.125  # of what is loaded at once at most: weights that are better mapped than copied

Values = Mapping[str, NDArray[Any]]


def is_large(model: ir.Model) -> bool:
    """Whether a model is run block by block."""
    return size_of(model) > LARGE_BYTES


def is_weighty(model: ir.Model) -> bool:
    """Whether weights of a model lie in files that are mapped, be it run at once or block by block."""
    return size_of(model) > _WEIGHTY * LARGE_BYTES


def declare_fed(part: ir.Model, fed: Values) -> None:
    """Types and ranks of what is fed count where inference missed them; only sizes keep their number."""
    for value in part.graph.inputs:
        array = fed.get(str(value.name))
        if array is not None:
            if not value.dtype:
                value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape(array.shape if _is_shape(value, array) else [None] * array.ndim)


def _is_shape(value: ir.Value, array: NDArray[Any]) -> bool:
    """Whether it is as long as the rank of something (a target of Resize), which runtimes want to know."""
    return array.ndim == 1 and array.dtype.kind == "i" and len(array) <= _RANKS and value.shape == array.shape


def open_at_once(runtime: Runtime, model: ir.Model) -> Session:
    """A session of a whole model; large external data stays in its files where the runtime maps it."""
    if runtime.maps and (found := referring(model)) is not None:
        return runtime.session(bytes(ir.to_proto(found.model).SerializeToString()), found.folder)
    return runtime.session(serialize(model))


class BlockSession:
    """A large model; see :class:`obs_onnx.runtimes.base.Session`. A block is loaded while it runs.

    Args:
        runtime: where blocks run.
        model: it must not change while this is in use.
    """

    def __init__(self, runtime: Runtime, model: ir.Model) -> None:
        self._runtime, self._model = runtime, model
        self._blocks = cut_into_blocks(model.graph, LARGE_BYTES // _BLOCKS)
        self.inputs = tuple(map(_spec, real_inputs(model)))
        self.outputs = tuple(map(_spec, model.graph.outputs))

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        """Output name -> array for one complete feed.

        Raises:
            DataError: the feed does not fit the inputs.
            ModelError: a block does not load, or fails while running.
        """
        wanted = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        values = self._fed(feed)
        for block, names in self._needed(wanted):
            session = self._open(block, names, values)
            found = session.run({spec.name: values[spec.name] for spec in session.inputs}, names)
            values.update(found)
            self._drop(values, block, wanted)
        let_go(self._model)
        return {name: self._given(name, values) for name in wanted}

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` runs: those of all blocks, without what loading them takes."""
        wanted = [spec.name for spec in self.outputs]
        values, seconds = self._fed(feed), np.zeros(runs)
        for block, names in self._needed(wanted):
            session = self._open(block, names, values)
            part = {spec.name: values[spec.name] for spec in session.inputs}
            seconds += session.time(part, runs)
            values.update(session.run(part, names))
            self._drop(values, block, wanted)
        return [float(one) for one in seconds]

    def _fed(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The inputs.

        Raises:
            DataError: one is missing, or there is another one.
        """
        names = {spec.name for spec in self.inputs}
        if other := sorted(names ^ set(feed)):
            raise DataError(
                f"the feed does not fit the model: it takes {', '.join(sorted(names))}, not {other[0]!r}"
            )
        return dict(feed)

    def _needed(self, wanted: Iterable[str]) -> list[tuple[Block, list[str]]]:
        """Blocks that the wanted outputs need, in order, each with the results that it has to give."""
        needed, found = set(wanted), list[tuple[Block, list[str]]]()
        for block in reversed(self._blocks):
            names = [name for name in block.results if name in needed]
            if names:
                found.append((block, names))
                needed.update(block.given)
        return found[::-1]

    def _open(self, block: Block, names: Sequence[str], values: Values) -> Session:
        part = extract(self._model, block.given, names)
        declare_fed(part, values)
        return open_at_once(self._runtime, part)

    def _drop(self, values: dict[str, NDArray[Any]], done: Block, wanted: Iterable[str]) -> None:
        """Forget what no block behind needs."""
        later = self._blocks[self._blocks.index(done) + 1 :]
        kept = {*wanted, *(name for block in later for name in block.given)}
        for name in [name for name in values if name not in kept]:
            del values[name]

    def _given(self, name: str, values: Values) -> NDArray[Any]:
        """An output: computed, or an initializer as it is."""
        if name in values:
            return values[name]
        tensor = self._model.graph.initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()


def _spec(value: ir.Value) -> TensorSpec:
    """What the model declares of an input or output.

    Raises:
        ModelError: it is no tensor.
    """
    kind = value.type
    if not isinstance(kind, ir.TensorType):
        raise ModelError(f"{value.name!r} is no tensor: a model of this size can be run with tensors only")
    dims = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    dtype = np.dtype(object) if kind.dtype == ir.DataType.STRING else kind.dtype.numpy()
    return TensorSpec(str(value.name), dims, dtype)
