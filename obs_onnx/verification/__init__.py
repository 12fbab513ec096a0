"""Promises, checked on the result itself.

In: the dense and the pruned model, and held-out data. Out: nothing where all holds, otherwise a
:class:`~obs_onnx.passes.errors.VerificationError`; errors of layers; a proven bound of the output error.
Next: :mod:`obs_onnx.pruning` writes nothing before this room was passed.
"""
