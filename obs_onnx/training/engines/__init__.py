"""Engines of training: one file per engine behind one small protocol, one entry each in ``registry``.

* ``graph``: one graph of standard operators, on any onnxruntime; the faster one (benchmarks/training.py).
* ``ort-training``: onnxruntime-training, whose artifacts also train on devices.

In: a :class:`~obs_onnx.training.engines.base.Task` (model, loss, settings). Out: an
:class:`~obs_onnx.training.engines.base.Engine` that makes one step at a time. Next:
:mod:`obs_onnx.training.loop` drives it.
"""
