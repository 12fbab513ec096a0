"""Shapes: inferred strictly, completed where ONNX cannot, with sizes as symbols or numbers.

In: a model. Out: the same with the shapes that are known; what is not known stays unknown. Next:
:mod:`obs_onnx.passes.traits` reads them.
"""
