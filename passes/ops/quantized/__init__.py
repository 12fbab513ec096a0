"""Operators on integers, with the scales and zero points that say what numbers these are.

In: a node. Out: the records of those whose weights are stored in blocks (``TABLE`` of ``blocks``), rules of
    others by their counterparts on numbers (``counterpart``), what integers stand for (``numbers``),
    gradients through the rounding (``straight_through``). Next: :mod:`obs_onnx.passes.ops` joins them.
"""
