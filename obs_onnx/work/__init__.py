"""Finished pieces of a run, kept in a folder, so that a run that was stopped goes on from the last of them.

In: tasks that do not depend on each other, each with a name and what it gives, and what all of them depend
on. Out: what they gave, computed now or read back; the same bits either way. Next: the loops of
:mod:`obs_onnx.reconstruction`, :mod:`obs_onnx.criteria`, :mod:`obs_onnx.latency` and
:mod:`obs_onnx.training` ask before they compute, and :mod:`obs_onnx.pruning` opens the folder.
"""
