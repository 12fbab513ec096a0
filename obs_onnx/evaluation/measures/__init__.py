"""What a model's outputs are measured by.

In: the dense model's graph and its outputs. Out: a
:class:`~obs_onnx.evaluation.measures.yardstick.Yardstick`, made once: class scores, parts of outputs with
their spreads, the measures of a task, a metric of one's own. Next: :mod:`obs_onnx.evaluation.quality`
measures models by it.
"""
