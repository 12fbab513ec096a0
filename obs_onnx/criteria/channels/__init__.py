"""Criteria: what each channel of a group is worth, one criterion per file.

A criterion is a function of the :class:`~obs_onnx.criteria.channel_statistics.ChannelStatistics` and a group
that gives one number for each channel, of any scale; channels go in the order of rising numbers.
:data:`CRITERIA` has an entry for each of them. Next: :mod:`obs_onnx.criteria.score_curves` compares groups.
"""

from obs_onnx.criteria.channels.registry import CRITERIA, Criterion

__all__ = ["CRITERIA", "Criterion"]
