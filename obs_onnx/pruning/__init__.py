"""Pruning as a whole: open the inputs, try what the targets allow, judge, and finish.

In: a model and options (``inputs``, ``options``), and data (``calibrated``). Out: the best attempt with its
promises checked (``proof``), and the report of the run (``run_report``) or the points of a frontier
(:mod:`obs_onnx.pruning.frontier`). :mod:`obs_onnx.pruning.channels` removes channels,
:mod:`obs_onnx.pruning.weights` makes zeros; both satisfy the protocols of ``strategy``: a strategy opens the
plan of a model, and the plan searches with what is calibrated. Next: :mod:`obs_onnx.entrypoints` writes the
result.
"""
