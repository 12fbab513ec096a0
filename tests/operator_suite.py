"""The operator tests that come with ``onnx``, turned into tests of removal and of gradients.

Every case is one operator with inputs and expected outputs. :func:`summed` makes a model of it whose float
inputs are weights, and whose only output is a randomly weighted sum of everything the operator puts out: then
no axis is kept by being an output, and each axis of each float input may lose elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FLOATS", "OperatorCase", "cases", "summed"]

_OURS = ".of_case"
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True)
class OperatorCase:
    """One operator test of ``onnx``.

    Attributes:
        name: of the case.
        model: one node, or a few where the operator is a function written out.
        feeds: arrays (or lists, or None) by input name.
        expected: by output name.
        rtol, atol: within which a runtime must reproduce ``expected``.
    """

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: dict[str, Any]
    rtol: float
    atol: float

    @property
    def is_plain(self) -> bool:
        """Whether all inputs and outputs are tensors (no sequences, maps or optional values)."""
        values = (*self.model.graph.input, *self.model.graph.output)
        return all(v.type.HasField("tensor_type") for v in values) and all(
            isinstance(a, np.ndarray | np.generic) for a in (*self.feeds.values(), *self.expected.values())
        )


@lru_cache(maxsize=1)
def cases() -> tuple[OperatorCase, ...]:
    """All cases of the installed ``onnx``, made by its generators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return tuple(_read(collect_testcases(None)))


def _read(found: list[Any]) -> Iterator[OperatorCase]:
    for case in found:
        if case.model is None or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        feeds = {v.name: _array(x) for v, x in zip(case.model.graph.input, inputs, strict=False)}
        expected = {v.name: _array(y) for v, y in zip(case.model.graph.output, outputs, strict=False)}
        yield OperatorCase(case.name, case.model, feeds, expected, case.rtol, case.atol)


def _array(x: Any) -> Any:
    return np.asarray(x) if isinstance(x, np.generic | int | float) else x


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no output is named ``loss``, and that may use the standard operators."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for output in copy.graph.output:
        if output.name == "loss":
            for node in copy.graph.node:
                node.output[:] = [name + _OURS * (name == "loss") for name in node.output]
            output.name += _OURS
    if not any(entry.domain == "" for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("", 21))
    return copy


def summed(
    case: OperatorCase, held: bool, rng: np.random.Generator, constants: bool = False
) -> tuple[onnx.ModelProto, dict[str, Any], list[str]]:
    """A model with one scalar output ``loss`` over a case, its feeds, and the names of its weights.

    Without weights there is nothing to vary, or nothing to sum: then it is no whole model.

    Args:
        case: a plain one.
        held: whether float inputs are initializers themselves; otherwise they are initializers times an input
            of one, so that the operator's inputs are computed.
        rng: of the weights of the sum.
        constants: whether inputs of other types (axes, sizes, indices) are initializers too.
    """
    model = _renamed(case.model)
    graph, feeds, weights = model.graph, dict(case.feeds), []
    body = list(graph.node)
    before, after, terms = [], [], []
    inputs = list(graph.input)
    del graph.input[:], graph.node[:]
    kind = TensorProto.FLOAT
    for value in inputs:
        held_type = value.type.tensor_type.elem_type
        if constants and held_type not in FLOATS:
            graph.initializer.append(numpy_helper.from_array(np.asarray(feeds.pop(value.name)), value.name))
            continue
        if held_type not in FLOATS or not np.asarray(case.feeds[value.name]).ndim:
            graph.input.append(value)
            continue
        array, kind = np.asarray(feeds.pop(value.name)), held_type
        if held:
            graph.initializer.append(numpy_helper.from_array(array, value.name))
            weights.append(value.name)
            continue
        one = f"{value.name}.one"
        graph.input.append(helper.make_tensor_value_info(one, held_type, []))
        feeds[one] = np.ones((), array.dtype)
        graph.initializer.append(numpy_helper.from_array(array, f"{value.name}.w"))
        before.append(
            helper.make_node("Mul", [f"{value.name}.w", one], [value.name], name=f"{value.name}.Mul")
        )
        weights.append(f"{value.name}.w")
    if held:  # something must vary, or all is constant
        graph.input.append(helper.make_tensor_value_info("one", kind, []))
        feeds["one"] = np.ones((), helper.tensor_dtype_to_np_dtype(kind))
    outputs = list(graph.output)
    del graph.output[:]
    for value in outputs:
        y = np.asarray(case.expected[value.name.removesuffix(_OURS)])
        name = value.name
        if value.type.tensor_type.elem_type != kind:
            if y.dtype.kind not in "biuf":
                continue
            after.append(helper.make_node("Cast", [name], [f"{name}.cast"], name=f"{name}.Cast", to=kind))
            name = f"{name}.cast"
        random = rng.uniform(0.5, 1.5, y.shape).astype(helper.tensor_dtype_to_np_dtype(kind))
        graph.initializer.append(numpy_helper.from_array(random, f"{value.name}.r"))
        after += [
            helper.make_node(
                "Mul", [name, f"{value.name}.r"], [f"{value.name}.p"], name=f"{value.name}.Weigh"
            ),
            helper.make_node(
                "ReduceSum", [f"{value.name}.p"], [f"{value.name}.s"], name=f"{value.name}.Sum", keepdims=0
            ),
        ]
        terms.append(f"{value.name}.s")
    if not terms:
        return model, feeds, []
    if held:
        after.append(helper.make_node("Mul", [terms[0], "one"], ["varied"], name="vary"))
        terms[0] = "varied"
    after.append(helper.make_node("Sum", terms, ["loss"], name="total"))
    graph.node.extend([*before, *body, *after])
    graph.output.append(helper.make_tensor_value_info("loss", kind, []))
    return model, feeds, weights


def first_of_each() -> Callable[[OperatorCase], bool]:
    """Whether a case is the first one that it is asked about with its operator."""
    seen: set[str] = set()

    def select(case: OperatorCase) -> bool:
        operator = case.model.graph.node[-1].op_type
        new = operator not in seen
        seen.add(operator)
        return new

    return select
