"""Criteria: what each channel of a group is worth, one criterion per file.

In: the :class:`~obs_onnx.criteria.channel_statistics.ChannelStatistics` of a model, and a group. Out: one
number for each channel, of any scale; channels go in the order of rising numbers. :data:`CRITERIA` has an
entry for each criterion. Next: :mod:`obs_onnx.criteria.score_curves` compares groups.
"""

from obs_onnx.criteria.channels.registry import CRITERIA, Criterion

__all__ = ["CRITERIA", "Criterion"]
