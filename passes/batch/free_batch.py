"""Models with a fixed batch, which take any number of samples at a time after this, and their own way back.

Which axes hold the samples is not said in a model. So there are several readings; each of them has been
followed through the whole graph (see :mod:`obs_onnx.passes.batch.batch_search`), and whoever has data
finds out which one gives the same outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.batch.batch_search import BatchAxis, BatchSearch
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.bodies import remove_unused_nodes
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import Names, remove_if_unused
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.shapes.concrete import fitting_sizes
from obs_onnx.passes.shapes.infer_shapes import InferShapes

__all__ = ["FreeBatch", "free_batches"]

_SOLUTIONS = 4  # of one reading that are tried

Axes = Mapping[str, int]


@dataclass(frozen=True)
class FreeBatch:
    """A model that takes any number of samples, made from one that takes a fixed number.

    Attributes:
        given: the model as it came in.
        model: the same for any number of samples, without functions and Constant nodes.
        size: samples that ``given`` takes.
        inputs: batch axis of each input that has one; of none where ``model`` takes one sample at a time.
        outputs: where the samples lie in each output that depends on them.
        repeats: names of nodes that repeat what is the same for all samples.
        targets: axis of the samples in the constant target of each Reshape that has another one, by name.
        rows: axis of the samples for each of ``repeats`` that repeats the one row of a constant, which has a
            row for every sample in ``given``.
    """

    given: ir.Model
    model: ir.Model
    size: int
    inputs: Axes
    outputs: Mapping[str, BatchAxis]
    repeats: frozenset[str] = frozenset()
    targets: Axes = field(default_factory=dict)
    rows: Axes = field(default_factory=dict)

    def put_back(self, model: ir.Model) -> ir.Model:
        """A copy of ``model``, made from :attr:`model`, that says its batch where :attr:`given` did."""
        result = model.clone()
        rows: dict[ir.Value, int] = {}
        for node in list(result.graph):
            if node.name in self.repeats:
                source = node.inputs[0]
                assert source is not None
                if node.name in self.rows:
                    rows[source] = self.rows[node.name]
                node.outputs[0].replace_all_uses_with(source)
        for value, axis in rows.items():
            _set_tensor(value, np.repeat(_numbers(value), self.size, axis))
        if self.repeats:
            remove_unused_nodes(result)
        ends = (*real_inputs(self.given), *self.given.graph.outputs)
        shapes = {str(value.name): value.shape for value in ends}
        for value in (*real_inputs(result), *result.graph.outputs):
            value.shape = shapes.get(str(value.name), value.shape)
        sized = _with_batch(result, self.inputs, self.size)
        InferShapes().call(sized)
        self._name_targets(result, sized)
        _forget_shapes(result)
        InferShapes().call(result)
        return result

    def _name_targets(self, model: ir.Model, sized: ir.Model) -> None:
        """Let targets of Reshape say the size of the batch again, which ``sized`` knows."""
        known = {node.name: node.outputs[0] for node in sized.graph if node.name in self.targets}
        names = Names(model)
        for node in model.graph:
            dims = node_facts.dims(known.get(node.name))
            numbers = node_facts.array(node, 1) if dims is not None else None
            if dims is None or numbers is None or len(numbers) != len(dims):
                continue
            size = dims[self.targets[str(node.name)]]
            if size is not None and numbers[self.targets[str(node.name)]] != size:
                target = node.inputs[1]
                assert target is not None
                said = np.where(np.arange(len(dims)) == self.targets[str(node.name)], size, numbers)
                name = str(target.name)
                node.replace_input_with(1, names.initializer(name, ir.Tensor(said.astype(np.int64))))
                remove_if_unused(model, target)
                _rename(model, node.inputs[1], name)


def free_batches(model: ir.Model) -> Iterator[FreeBatch]:
    """All readings of ``model`` as one for any number of samples, the likeliest first; it is not changed.

    There are none where the batch is free and nothing keeps the graph from taking it. Where the batch is said
    to be free and the graph contradicts it, the last one is the model for one sample at a time.
    """
    try:
        base = plain(model)
        InferShapes().call(base)
    except ModelError:  # whoever works with the model will say so
        return
    if any(value.shape is None for value in real_inputs(base)):
        return
    for size, axes in _readings(base):
        yield from _freed(model, base, size, axes)


def _readings(model: ir.Model) -> list[tuple[int, Axes]]:
    """Samples, and the batch axis of inputs by name."""
    shapes = {str(value.name): tuple(value.shape or ()) for value in real_inputs(model)}
    named = [name for name, shape in shapes.items() if shape and not isinstance(shape[0], int)]
    if named:
        return [(1, dict.fromkeys(named, 0))]
    found: list[tuple[int, Axes]] = []
    first = next((shape for shape in shapes.values() if len(shape) > 1), next(iter(shapes.values()), ()))
    for leading in (0, 1):
        size = first[leading] if leading < len(first) - leading else None
        if not isinstance(size, int) or size < 1:
            continue
        axes = {
            name: axis for name, shape in shapes.items() if (axis := _axis(shape, size, leading)) is not None
        }
        wide = {name: axis for name, axis in axes.items() if len(shapes[name]) > 1}
        for reading in (axes, wide, dict(islice(axes.items(), 1))):
            if reading and (size, reading) not in found:
                found.append((size, reading))
    return found


def _axis(shape: tuple[int | ir.SymbolicDim, ...], size: int, leading: int) -> int | None:
    """The axis of ``size`` among the first two (the second one of sequences only), ``leading`` first."""
    axes = [axis for axis in (leading, 1 - leading) if axis < len(shape) - axis and shape[axis] == size]
    return axes[0] if axes else None


def _freed(given: ir.Model, base: ir.Model, size: int, axes: Axes) -> Iterator[FreeBatch]:
    """The ways in which one reading of ``given`` works out."""
    copy, symbol = base.clone(), _symbol(base, axes)
    sizes = fitting_sizes(base)
    for value in real_inputs(copy):
        if (axis := axes.get(str(value.name))) is not None:
            value.shape = ir.Shape([symbol if k == axis else dim for k, dim in enumerate(value.shape or ())])
    search = BatchSearch(copy, symbol, size, sizes)
    idle = {name for name, value in base.graph.initializers.items() if not is_used(value)}
    declared = any(not isinstance(dim, int) for x in real_inputs(base) for dim in _at(x, axes))
    for _ in islice(search.solutions(), _SOLUTIONS):
        if declared and not search.mended:
            return
        found = {str(value.name): axis for value, axis in search.axes.items()}
        opened = _open(copy, found, symbol, idle, search.targets)
        rows = _keep_one_row(opened, search.repeats)
        yield FreeBatch(
            given,
            opened,
            size,
            axes,
            {str(y.name): found[str(y.name)] for y in copy.graph.outputs if y.name in found},
            frozenset(search.repeats),
            {name: axis for name, (axis, _) in search.targets.items()},
            rows,
        )
    if declared:
        yield FreeBatch(given, _with_batch(base, axes, 1), size, {}, {})


def _keep_one_row(model: ir.Model, repeats: Collection[str]) -> dict[str, int]:
    """Cut constants of equal rows of which only the first is read; their axes by the nodes that repeat it.

    A constant that kept rows which nothing reads would lose them as if they were channels.
    """
    rows: dict[str, int] = {}
    for value in list(model.graph.initializers.values()):
        uses = value.uses()
        first = [node for node, i in uses if i == 0 and node.op_type == "Slice" and node.name in repeats]
        axes = {axis for node in first for axis in node_facts.ints_input(node, 3) or ()}
        if value.is_graph_input() or value.is_graph_output() or len(first) != len(uses) or len(axes) != 1:
            continue
        (axis,) = axes
        numbers = _numbers(value)
        row = np.take(numbers, [0], axis)
        if not np.array_equal(numbers, np.broadcast_to(row, numbers.shape)):
            continue
        _set_tensor(value, row)
        for node in first:
            rows |= {str(use.node.name): axis for use in node.outputs[0].uses()}
            node.outputs[0].replace_all_uses_with(value)
            constants = node.inputs[1:]
            model.graph.remove(node, safe=True)
            for constant in constants:
                remove_if_unused(model, constant)
    return rows


def _numbers(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _set_tensor(value: ir.Value, numbers: NDArray[np.generic]) -> None:
    assert value.const_value is not None
    value.const_value = ir.Tensor(numbers, dtype=value.const_value.dtype)
    value.shape = ir.Shape(numbers.shape)


def _with_batch(model: ir.Model, axes: Axes, size: int) -> ir.Model:
    """A copy that takes so many samples."""
    result = model.clone()
    for value in real_inputs(result):
        if (axis := axes.get(str(value.name))) is not None:
            value.shape = ir.Shape([size if k == axis else dim for k, dim in enumerate(value.shape or ())])
    _forget_shapes(result)
    return result


def _forget_shapes(model: ir.Model) -> None:
    """Of all that is computed and no output."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _rename(model: ir.Model, value: ir.Value | None, name: str) -> None:
    """Give an initializer a name that nothing has any more."""
    if value is not None and name not in model.graph.initializers:
        value.name = name


def _at(value: ir.Value, axes: Axes) -> list[int | ir.SymbolicDim]:
    axis = axes.get(str(value.name))
    return [] if axis is None or value.shape is None else [value.shape[axis]]


def _symbol(model: ir.Model, axes: Axes) -> str:
    """The name that the batch has, or a new one."""
    for value in real_inputs(model):
        for dim in _at(value, axes):
            if not isinstance(dim, int) and dim.value:
                return dim.value
    dims = {str(dim) for value in model.graph.inputs for dim in value.shape or ()}
    name = "batch"
    while name in dims:
        name += "_"
    return name


def _open(
    model: ir.Model,
    axes: Mapping[str, BatchAxis],
    symbol: str,
    idle: Collection[str],
    targets: Mapping[str, tuple[int, str]],
) -> ir.Model:
    """A copy in which no shape says a fixed batch, without constants that nothing uses but ``idle`` ones."""
    model.graph.sort()
    result = model.clone()
    for node in result.graph:
        for value in node.outputs:
            axis = axes.get(str(value.name))
            if axis is None or value.shape is None:
                continue
            if value.is_graph_output():
                dims = list(value.shape)
                alone = axis.before == 1 and dims[axis.axis] == 1
                dims[axis.axis] = ir.SymbolicDim(symbol if alone else None)
                value.shape = ir.Shape(dims)
            else:
                value.shape = None
    for name, value in list(result.graph.initializers.items()):
        if name not in idle:
            remove_if_unused(result, value)
    for node in result.graph:
        if node.name in targets:
            _rename(result, node.inputs[1], targets[str(node.name)][1])
    return result
