"""Gradients and Hessian-vector products of the operator tests of ``onnx``, against central differences.

The loss is a randomly weighted sum of the squares of all floating-point outputs. All is computed in float64,
a little beside the inputs of the case, so that no two elements are equal and none is a kink.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx_ir as ir
from derivatives import check_model
from float64 import double, evaluator, feeds_in_double
from onnx import TensorProto, helper, numpy_helper
from operator_suite import OperatorCase, cases

from obs_onnx.passes.canonical.modernize import modernize
from obs_onnx.passes.errors import GradientError, ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.ops import lookup

__all__ = ["Outcome", "outcome", "outcomes"]

_FLOATS = {int(kind) for kind in node_facts.FLOATS}


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        name: of the case.
        verdict: ``right``, ``wrong``, ``refused``, or ``left out`` where there is nothing to compare.
        reason: why not right; empty otherwise.
    """

    name: str
    verdict: str
    reason: str = ""


def outcomes() -> Iterator[Outcome]:
    """Those of all cases."""
    return map(outcome, cases())


def outcome(case: OperatorCase) -> Outcome:
    """Differentiate one case with respect to all inputs through which gradients may flow."""
    case = _renamed(case)
    if not case.is_plain:
        return Outcome(case.name, "left out", "not all of it are tensors")
    wrt, results = _differentiable(case), _results(case)
    if not wrt or not results:
        return Outcome(case.name, "left out", "no floating-point input, or no such output")
    if not _evaluates(case, results):
        return Outcome(case.name, "left out", "nothing here computes it in float64")
    proto, feeds = _with_loss(case, wrt, results), _beside(case, wrt, results)
    if feeds is None:
        return Outcome(case.name, "left out", "it is not finite")
    written = (double(proto), proto)  # some operators know no float64, and are evaluated in it all the same
    tried = []
    for each, step in product(written, _STEPS):
        tried.append(_compared(case.name, each, feeds, wrt, step))
        if tried[-1].verdict == "right":
            break
    return min(tried, key=lambda one: ("right", "wrong", "refused").index(one.verdict))


_STEPS = (1e-5, 1e-7)  # a kink in between is farther away than the smaller of them


def _compared(
    name: str, proto: onnx.ModelProto, feeds: dict[str, Any], wrt: list[str], step: float
) -> Outcome:
    given = {value.name: feeds[value.name] for value in proto.graph.input}
    try:
        modern = ir.to_proto(modernize(ir.from_proto(proto)))
        check_model(modern, given, wrt, step=step, tolerance=1e-5, symmetry=1e-6)
    except (GradientError, ModelError) as error:
        return Outcome(name, "refused", str(error))
    except AssertionError as error:
        return Outcome(name, "wrong", str(error)[:500])
    except Exception as error:
        return Outcome(name, "wrong", f"{type(error).__name__}: {error}"[:500])
    return Outcome(name, "right")


def _renamed(case: OperatorCase) -> OperatorCase:
    """No value of it is called ``loss``."""
    if "loss" not in case.expected and "loss" not in case.feeds:
        return case
    model = onnx.compose.add_prefix(case.model, "case_")
    feeds, expected = ({f"case_{k}": v for k, v in one.items()} for one in (case.feeds, case.expected))
    return replace(case, model=model, feeds=feeds, expected=expected)


def _differentiable(case: OperatorCase) -> list[str]:
    """Float inputs of the case that no node takes for a size, a ratio or a type."""
    floats = [
        value.name
        for value in case.model.graph.input
        if value.type.tensor_type.elem_type in _FLOATS and np.asarray(case.feeds[value.name]).size
    ]
    other = {
        str(value.name)
        for node in ir.from_proto(case.model).graph
        if (count := lookup(node).differentiable_inputs) is not None
        for value in node.inputs[count:]
        if value is not None
    }
    return [name for name in floats if name not in other]


def _results(case: OperatorCase) -> list[str]:
    return [
        value.name
        for value in case.model.graph.output
        if value.type.tensor_type.elem_type in _FLOATS and np.asarray(case.expected[value.name]).size
    ]


def _evaluates(case: OperatorCase, results: list[str]) -> bool:
    """Whether the evaluator in float64 gives what the case expects."""
    try:
        found = evaluator(double(case.model)).run(results, _feeds(case))
    except Exception:
        return False
    return all(
        np.shape(y) == np.shape(case.expected[name])
        and np.allclose(
            np.asarray(y, np.float64), np.asarray(case.expected[name], np.float64), 1e-2, 1e-3, equal_nan=True
        )
        for name, y in zip(results, found, strict=True)
    )


def _feeds(case: OperatorCase) -> dict[str, Any]:
    return feeds_in_double({name: np.asarray(array) for name, array in case.feeds.items()})


def _beside(case: OperatorCase, wrt: list[str], results: list[str]) -> dict[str, Any] | None:
    """Feeds a little larger or smaller than those of the case, whichever the operator is defined for."""
    for sign in (-1, 1):
        feeds, rng = _feeds(case), np.random.default_rng(0)
        for name in wrt:
            x = feeds[name]
            moved = x * (1 + sign * 0.02 * rng.random(x.shape)) + 2e-3 * rng.random(x.shape)
            feeds[name] = np.where(np.isfinite(x), moved, x)
        with np.errstate(all="ignore"), suppress(Exception):  # what it does not know is left out
            found = evaluator(double(case.model)).run(results, feeds)
            if all(np.isfinite(y).all() for y in found):
                return feeds
    return None


def _with_loss(case: OperatorCase, wrt: list[str], results: list[str]) -> onnx.ModelProto:
    """The case with the output ``loss`` alone; inputs that are not differentiated are initializers."""
    rng, model = np.random.default_rng(1), onnx.ModelProto()
    model.CopyFrom(case.model)
    graph, terms = model.graph, []
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    for value in list(graph.input):
        if value.name not in wrt:
            graph.input.remove(value)
            array = np.asarray(case.feeds[value.name])
            graph.initializer.append(numpy_helper.from_array(array, value.name))
    del graph.output[:]
    for name in results:
        weights = rng.uniform(0.5, 1.5, np.shape(case.expected[name])).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weights, f"{name}.r"))
        wide = name
        if kinds[name] != TensorProto.FLOAT:
            wide = f"{name}.wide"
            graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
        graph.node.extend(
            [
                helper.make_node("Mul", [wide, wide], [f"{name}.squared"]),
                helper.make_node("Mul", [f"{name}.squared", f"{name}.r"], [f"{name}.weighted"]),
                helper.make_node("ReduceSum", [f"{name}.weighted"], [f"{name}.sum"], keepdims=0),
            ]
        )
        terms.append(f"{name}.sum")
    graph.node.append(helper.make_node("Sum", terms, ["loss"]))
    graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    if not any(one.domain == "" for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    return model
