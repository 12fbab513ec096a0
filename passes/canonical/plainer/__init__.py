"""Operators in terms of plainer ones: functions, fused layers, normalizations and pools written out.

In: a model. Out: the same function in operators of which the tables know more. Next:
:mod:`obs_onnx.passes.canonical` does what is left.
"""
