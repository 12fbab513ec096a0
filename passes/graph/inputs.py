"""Inputs of a model that have to be fed; the others are initializers that it lists as inputs as well."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["input_names", "real_inputs"]


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """Inputs of the main graph without a value of their own, in order."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def input_names(model: ir.Model) -> list[str]:
    """Names of :func:`real_inputs`."""
    return [str(value.name) for value in real_inputs(model)]
