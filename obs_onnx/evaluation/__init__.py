"""How well a model does, and what one run of it takes.

In: sessions or models, and data. Out: accuracy, output error and agreement (:class:`Evaluation`), damage to
the outputs, multiply-accumulates, memory, sizes. Next: :mod:`obs_onnx.pruning` judges attempts by it,
:mod:`obs_onnx.report` shows it.
"""

from obs_onnx.evaluation.quality import Evaluation, Tally, evaluate_sessions

__all__ = ["Evaluation", "Tally", "evaluate_sessions"]
