"""The canonical form: what every later pass may assume, and the rewrites that lead there.

In: any model. Out: the same function without local functions, Constant nodes, hidden weights or foldable
BatchNormalization, with shapes inferred; ``canonicalize`` lists the steps. Next:
:mod:`obs_onnx.passes.layers` finds what holds weights, :mod:`obs_onnx.passes.channels` what belongs together.
"""
