"""Operators that language models are exported with, each of which stands for a small graph.

In: a node. Out: what is known about its operator. Next: :data:`obs_onnx.passes.ops.TABLE` takes these tables
in.
"""
