"""The options of :func:`obs_onnx.entrypoints.replay.replay`."""

from __future__ import annotations

from dataclasses import dataclass, field

from obs_onnx.data.options import FixedInputs
from obs_onnx.entrypoints.options.prune import Written
from obs_onnx.option import Options, about, option
from obs_onnx.runtimes.options import RuntimeOptions

__all__ = ["ReplayOptions"]


@dataclass(frozen=True)
class Places(Options, title="Output"):
    """What is applied."""

    keep: object = field(
        metadata=about("A keep.json, as prune and pareto write it, or its contents.", flags="", form="data")
    )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Written, Places, FixedInputs, RuntimeOptions, title="Data"):
    """Everything that a replay can be told."""

    calib: object = option(
        None,
        help="Data on which the result is compared with the model in which the same channels are silenced.",
        otherwise="<stem>.calib.npz beside the model, else one random sample",
        metavar="SRC",
        form="data",
        common=2,
    )
