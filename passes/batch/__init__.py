"""Batches: models that were traced for a fixed number of samples take any number, and go back.

In: a model as it came in. Out: its readings as a model with a free batch, each with its way back. Next:
:mod:`obs_onnx.evaluation.free_batch` finds out on data which one is right.
"""
