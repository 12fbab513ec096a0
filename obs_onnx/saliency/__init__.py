"""Criteria: what each channel of a group is worth.

A criterion is a function of the :class:`~obs_onnx.evidence.Evidence` and a group that gives one number for
each channel, of any scale; channels go in the order of rising numbers. :data:`CRITERIA` names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from obs_onnx.evidence import Evidence
from obs_onnx.passes.coupling import Group
from obs_onnx.saliency.activations import average, deviation, share_not_zero
from obs_onnx.saliency.baselines import at_random
from obs_onnx.saliency.information import mutual_information
from obs_onnx.saliency.magnitude import l1, l2
from obs_onnx.saliency.oracle import oracle
from obs_onnx.saliency.surgeon import surgeon

__all__ = ["CRITERIA", "Criterion"]

Criterion: TypeAlias = Callable[[Evidence, Group], NDArray[np.float64]]

CRITERIA: Mapping[str, Criterion] = {
    "obs": surgeon,
    "magnitude": l2,
    "l1": l1,
    "l2": l2,
    "mean": average,
    "std": deviation,
    "apoz": share_not_zero,
    "mutual-information": mutual_information,
    "random": at_random,
    "oracle": oracle,
}
