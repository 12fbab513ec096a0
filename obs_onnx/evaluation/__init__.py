"""How well a model does, and what one run of it takes.

In: sessions or models, and data. Out: a :class:`~obs_onnx.evaluation.yardstick.Yardstick`, made once of the
dense model's graph and outputs; by it errors of parts, accuracy and the measures of a task
(:class:`~obs_onnx.evaluation.quality.Evaluation`), and the damage to outputs that allocation minimises;
multiply-accumulates, memory, sizes. Next: :mod:`obs_onnx.pruning` judges attempts by it,
:mod:`obs_onnx.report` shows it.
"""
