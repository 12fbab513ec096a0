"""Random numbers that are the same in every run, so that models can be compared.

Runtimes draw other numbers in every run, whatever the seed, and in training mode Dropout leaves other values
out. What is measured of such a model twice differs by that alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.graph.writer import take_over
from obs_onnx.passes.ops import key, lookup

__all__ = ["FixNumbers", "drops_out", "is_fixable", "random_nodes", "trained_by_batch"]

_PERIOD = 65521  # a prime: numbers that are drawn, before they come again
_OLDEST = 11  # first opset with Range


def drops_out(node: ir.Node) -> bool:
    """Whether the node is a Dropout that may be in training mode."""
    if key(node) != "Dropout" or node_facts.input_of(node, 2) is None:
        return False
    mode = node_facts.array(node, 2)
    return mode is None or bool(mode.any())


def trained_by_batch(node: ir.Node) -> bool:
    """Whether the node normalises by the statistics of the batch, as in training."""
    return key(node) == "BatchNormalization" and bool(node_facts.int_attribute(node, "training_mode", 0))


def random_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes that draw numbers, those of bodies and functions as well."""
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for graph in graphs:
        yield from (node for node in graph.all_nodes() if lookup(node).random or drops_out(node))


def is_fixable(model: ir.Model, node: ir.Node) -> bool:
    """Whether :class:`FixNumbers` knows the operator, with what a model of this opset has."""
    return drops_out(node) or (key(node) in _RULES and model.opset_imports.get("", 1) >= _OLDEST)


class FixNumbers(ir.passes.InPlacePass):
    """Take everything random out of the main graph and its bodies.

    1. Dropout in training mode is turned off.
    2. Numbers come from a table of fixed ones, by the name of the output and their place in it: the same in
       all runs, and in all models and parts of them with these names. They are distributed as is asked for.

    What is not known stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``, which has no functions."""
        count, names = 0, Names(model)
        for node in list(random_nodes(model)):
            if not is_fixable(model, node):
                continue
            count += 1
            if drops_out(node):
                node.replace_input_with(2, None)  # 1.
            else:
                drawn = _RULES[key(node)](_Table(names, node, model.opset_imports[""]))  # 2.
                take_over(names, node.outputs[0], drawn)
                assert isinstance(node.graph, ir.Graph)
                node.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, modified=bool(count))


class _Table:
    """Writes nodes in front of a random one."""

    def __init__(self, names: Names, node: ir.Node, opset: int) -> None:
        self.node, self._names, self._opset = node, names, opset
        self._start = zlib.crc32(str(node.outputs[0].name).encode()) % _PERIOD

    def constant(self, array: NDArray[np.generic] | np.generic) -> ir.Value:
        """An initializer."""
        return self._names.initializer(f"{self.node.name}.fixed", ir.Tensor(np.asarray(array)))

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """The output of a new node, whose type runtimes find out."""
        node = ir.node(op_type, inputs, attributes, name=self._names.fresh(f"{self.node.name}.{op_type}"))
        node.outputs[0].name = self._names.fresh(f"{node.name}.0")
        assert isinstance(self.node.graph, ir.Graph)
        self.node.graph.insert_before(self.node, node)
        return node.outputs[0]

    def like_input(self) -> ir.Value:
        """The shape of the first input."""
        x = self.node.inputs[0]
        assert x is not None
        return self.op("Shape", x)

    def numbers(self, drawn: NDArray[np.float32], shape: ir.Value) -> ir.Value:
        """So many of ``drawn`` as a tensor of a shape needs."""
        start, one = self.constant(np.int64(self._start)), self.constant(np.int64(1))
        stop = self.op("Add", self.op("ReduceProd", shape, keepdims=0), start)
        places = self.op("Mod", self.op("Range", start, stop, one), self.constant(np.int64(_PERIOD)))
        empty = {"allowzero": 1} if self._opset >= 14 else {}
        return self.op("Reshape", self.op("Gather", self.constant(drawn), places), shape, **empty)

    def scaled(self, y: ir.Value, scale: float, shift: float) -> ir.Value:
        """``scale * y + shift``."""
        return self.op(
            "Add",
            self.op("Mul", y, self.constant(np.float32(scale))),
            self.constant(np.float32(shift)),
        )

    def typed(self, y: ir.Value, otherwise: ir.DataType) -> ir.Value:
        """In the type that the node asks for."""
        return self.op("Cast", y, to=node_facts.int_attribute(self.node, "dtype", int(otherwise)))

    def kind_of_input(self) -> ir.DataType:
        """The element type of the first input."""
        x = self.node.inputs[0]
        return (None if x is None else x.dtype) or ir.DataType.FLOAT


def _uniforms() -> NDArray[np.float32]:
    return np.random.default_rng(0).random(_PERIOD, np.float32)


def _normal(table: _Table, shape: ir.Value, kind: ir.DataType) -> ir.Value:
    scale = node_facts.float_attribute(table.node, "scale", 1.0)
    shift = node_facts.float_attribute(table.node, "mean", 0.0)
    drawn = np.random.default_rng(0).standard_normal(_PERIOD, np.float32)
    return table.typed(table.scaled(table.numbers(drawn, shape), scale, shift), kind)


def _uniform(table: _Table, shape: ir.Value, kind: ir.DataType) -> ir.Value:
    low = node_facts.float_attribute(table.node, "low", 0.0)
    high = node_facts.float_attribute(table.node, "high", 1.0)
    return table.typed(table.scaled(table.numbers(_uniforms(), shape), high - low, low), kind)


def _asked(table: _Table) -> ir.Value:
    return table.constant(np.array(table.node.attributes.get_ints("shape", []), np.int64))


def _bernoulli(table: _Table) -> ir.Value:
    p, kind = table.node.inputs[0], table.kind_of_input()
    assert p is not None
    below = table.op("Less", table.numbers(_uniforms(), table.like_input()), table.op("Cast", p, to=1))
    return table.typed(below, kind)


def _multinomial(table: _Table) -> ir.Value:
    """The class with the largest sum of its logarithm and a Gumbel number is drawn with its probability."""
    x = table.node.inputs[0]
    assert x is not None
    samples = node_facts.int_attribute(table.node, "sample_size", 1)
    shape = table.op("Shape", table.op("Reshape", x, table.constant(np.array([0, 1, -1]))))
    shape = table.op("Mul", shape, table.constant(np.array([1, samples, 1])))
    gumbel = table.numbers(-np.log(-np.log(np.clip(_uniforms(), 1e-7, 1 - 1e-7))), shape)
    scores = table.op("Cast", table.op("Reshape", x, table.constant(np.array([0, 1, -1]))), to=1)
    chosen = table.op("ArgMax", table.op("Add", scores, gumbel), axis=2, keepdims=0)
    return table.typed(chosen, ir.DataType.INT32)


_RULES: Mapping[str, Callable[[_Table], ir.Value]] = {
    "RandomNormal": lambda table: _normal(table, _asked(table), ir.DataType.FLOAT),
    "RandomNormalLike": lambda table: _normal(table, table.like_input(), table.kind_of_input()),
    "RandomUniform": lambda table: _uniform(table, _asked(table), ir.DataType.FLOAT),
    "RandomUniformLike": lambda table: _uniform(table, table.like_input(), table.kind_of_input()),
    "Bernoulli": _bernoulli,
    "Multinomial": _multinomial,
}
