"""Parts of a model run by themselves: from some values to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.sessions.block_session import (
    BlockSession,
    declare_fed,
    is_large,
    is_weighty,
    open_at_once,
)

__all__ = ["Values", "every_value", "open_part", "open_whole", "run_feed", "timable"]

Values = Mapping[str, NDArray[Any]]


def open_part(runtime: Runtime, part: ir.Model, fed: Values | None = None) -> Session:
    """A session for a part of a model in memory; a large one runs block by block.

    Args:
        runtime: where it runs.
        part: the model.
        fed: values that its inputs will get. Their types count where inference missed them, and their ranks
            in place of declared shapes, which exporters leave behind with the batch of a trace. Only sizes
            keep their number.
    """
    if fed is not None:
        declare_fed(part, fed)
    if is_weighty(part):
        return open_whole(runtime, part)
    for value in part.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return runtime.session(ir.to_proto(part).SerializeToString())


def open_whole(runtime: Runtime, model: ir.Model) -> Session:
    """A session for a model in memory; a large one runs block by block."""
    if is_large(model):
        return BlockSession(runtime, model)
    return open_at_once(runtime, model) if is_weighty(model) else runtime.session(serialize(model))


def timable(runtime: Runtime, model: ir.Model) -> Session | bytes:
    """What a model is timed by; a large one by a session that loads its blocks one after another."""
    return BlockSession(runtime, model) if is_large(model) else serialize(model)


def run_feed(
    session: Session, values: Values, outputs: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Run a session on those of ``values`` that it takes; all outputs unless ``outputs`` names some."""
    return session.run({spec.name: values[spec.name] for spec in session.inputs}, outputs)


def every_value(runtime: Runtime, model: ir.Model, feed: Values) -> dict[str, NDArray[Any]]:
    """All tensors of one run of the main graph, inputs included, by name; nothing is fused away."""
    values = [str(value.name) for node in model.graph for value in node.outputs if _is_tensor(value)]
    session = open_part(runtime, extract(model, input_names(model), values), feed)
    return {**feed, **run_feed(session, feed)}


def _is_tensor(value: ir.Value) -> bool:
    return bool(value.name) and (value.type is None or isinstance(value.type, ir.TensorType))
