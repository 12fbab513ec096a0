"""Operators whose weights are stored as integers of few bits, in blocks that share a scale.

In: a node. Out: the records of its family (``TABLE`` of each module). Next: :mod:`obs_onnx.passes.ops` joins
    them.
"""
