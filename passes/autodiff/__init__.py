"""Reverse-mode differentiation of a graph into a graph, and training steps as graphs.

In: a model of standard operators. Out: a model whose extra outputs are losses, gradients, Hessian products or
updated weights. The rules of the operators are in :mod:`obs_onnx.passes.ops.vjp`. Next:
:mod:`obs_onnx.training` and :mod:`obs_onnx.criteria` run these graphs.
"""
