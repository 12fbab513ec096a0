"""Pruning as a whole: open the inputs, try what the targets allow, judge, and finish.

In: a model, data and options, opened by :mod:`obs_onnx.pruning.inputs`. Out: the best attempt with its
promises checked, and the report of the run. :mod:`obs_onnx.pruning.channels` removes channels,
:mod:`obs_onnx.pruning.weights` makes zeros; both satisfy the protocol of :mod:`obs_onnx.pruning.mode`. Next:
:mod:`obs_onnx.entrypoints` writes the result.
"""
