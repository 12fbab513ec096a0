"""PyTorch: the smaller ONNX model back as a smaller module, so that training goes on there.

In: a module, and what :func:`obs_onnx.prune` made of its export. Out: the module with fewer channels and the
refitted weights, whose outputs were compared with those of the ONNX model. Next: PyTorch itself. Nothing else
of the program imports this room or the package ``torch``, which comes with the extra ``torch``.
"""

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ImportError("obs_onnx.torch needs the package torch: pip install 'obs-onnx[torch]'")

from obs_onnx.torch.entry import Sliced, prune, slice

__all__ = ["Sliced", "prune", "slice"]
