"""The interface of a model: inputs that are set for good, and outputs in front of which it is cut.

In: a model without functions and Constant nodes. Out: the same without some inputs (``fix_inputs``); a front
that gives other values, and the whole again from any form of it (``cut``). Next:
:mod:`obs_onnx.passes.canonical` brings the front to the form in which it is pruned.
"""
