"""What a run will take, told before it begins.

In: a calibrated model and what is wanted of it. Out: seconds and bytes by kind of work
(:class:`.forecast.Forecast`). Work is counted (``walks``, ``layers``, ``solutions``, put together in
``channels`` and ``weights``), and how fast this machine does each kind of it is measured in a moment
(``rates``). Next: the plans of :mod:`obs_onnx.pruning` tell it, and :mod:`obs_onnx.progress` shows the time
that is left by it.
"""
