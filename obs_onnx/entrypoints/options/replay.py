"""The options of :func:`obs_onnx.entrypoints.replay.replay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from obs_onnx.data.options import FixedInputs
from obs_onnx.entrypoints.options.prune import Written
from obs_onnx.io.paths import config_destination, configs_beside, side_path
from obs_onnx.io.streams import is_stream
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

    def results(self, model: Path | None) -> Mapping[str, Sequence[Path]]:
        """The model, and configurations of a language model beside it."""
        if self.output is None or is_stream(self.output):
            return {}
        destination = Path(self.output)
        configs = [] if model is None else configs_beside(model)
        beside = [config_destination(one, destination) for one in configs]
        return {"output": [destination, side_path(destination), *beside]}
