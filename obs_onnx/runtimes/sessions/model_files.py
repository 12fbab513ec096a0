"""Sessions of files that a runtime may not read by itself.

Side files behind links, or with a path of Windows for a name, are found by this program
(:mod:`obs_onnx.io.external_data`) and not by every runtime.
"""

from __future__ import annotations

import onnx_ir as ir

from obs_onnx.io.onnx_file import load_model, serialize
from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes.base import ModelSource, Runtime, Session

__all__ = ["open_session"]


def open_session(runtime: Runtime, model: ModelSource) -> Session:
    """A session of a model; what the runtime cannot read in a file is read for it.

    Args:
        runtime: where it runs.
        model: a file, or its bytes.

    Raises:
        ModelError, OptionError: it cannot be loaded.
    """
    try:
        return runtime.session(model)
    except ModelError:
        if isinstance(model, bytes):
            raise
        read = load_model(model, custom_domains=None)
        if not any(isinstance(x.const_value, ir.ExternalTensor) for x in read.graph.initializers.values()):
            raise
    return runtime.session(serialize(read))
