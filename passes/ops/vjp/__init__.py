"""Derivatives of the operators, one file per family, from standard operators only.

In: a node and the gradients of its outputs (:class:`obs_onnx.passes.traits.vjp.Vjp`). Out: nodes that compute
the gradients of its inputs, themselves differentiable. Next: the tables of :mod:`obs_onnx.passes.ops` name
these rules.
"""
