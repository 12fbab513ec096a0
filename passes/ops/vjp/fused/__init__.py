"""Derivatives of operators that language models are exported with: what they stand for is written out.

In: a node and the gradients of its outputs. Out: nodes for those of its inputs. Next:
:mod:`obs_onnx.passes.ops.fused` has them in its tables.
"""
