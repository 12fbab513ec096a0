"""How well a model does, and what one run of it takes.

In: sessions or models, and data. Out: doubts about the data; errors of parts, accuracy and the measures of a
task (:class:`~obs_onnx.evaluation.quality.Evaluation`) by the yardstick of
:mod:`obs_onnx.evaluation.measures`; multiply-accumulates, memory, sizes. Next: :mod:`obs_onnx.pruning` judges
attempts by it, :mod:`obs_onnx.report` shows it.
"""
