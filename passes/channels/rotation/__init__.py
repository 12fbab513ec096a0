"""Streams of channels that may be turned to other axes: nothing but linear operators and norms touches them.

In: a coupled model. Out: groups that can be rotated, and why others cannot (``rotatable``); weights with
which the model gives the same on other axes (``rotate``). Next: :mod:`obs_onnx.passes.channels` removes
channels of the rotated model as of any other.
"""
