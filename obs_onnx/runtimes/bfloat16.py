"""Models in bfloat16 on runtimes that have no kernels for it."""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.passes.canonical.upcast import Upcast, uses_bfloat16
from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes import Runtime
from obs_onnx.runtimes.sessions.partial_run import open_whole

__all__ = ["runnable"]


def runnable(runtime: Runtime, model: ir.Model) -> tuple[ir.Model, bool]:
    """The model, or a float32 copy (and True) where the runtime has no kernels for its bfloat16."""
    if not uses_bfloat16(model):
        return model, False
    try:
        open_whole(runtime, model)
    except ModelError:
        return Upcast()(model.clone()).model, True
    return model, False
