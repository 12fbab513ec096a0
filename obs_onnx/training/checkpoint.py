"""Where a training run was: weights, slots and progress in one npz file without pickle, written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.io.atomic_files import together
from obs_onnx.passes.errors import OptionError

__all__ = ["Checkpoint"]

Arrays = dict[str, NDArray[Any]]


@dataclass
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        settings: of the run; a run with others cannot go on from here.
        step: steps done.
        state: weights and slots.
        best: the best weights so far.
        progress: what else has to be known, fit for JSON.
    """

    settings: Mapping[str, Any]
    step: int
    state: Arrays
    best: Arrays
    progress: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, or nothing.

        Raises:
            OptionError: it cannot be written.
        """
        about = json.dumps({"settings": self.settings, "step": self.step, "progress": self.progress})
        arrays: dict[str, Any] = {f"state:{name}": array for name, array in self.state.items()}
        arrays.update({f"best:{name}": array for name, array in self.best.items()})
        with together() as files, files.new(path).open("wb") as file:
            np.savez(file, about=np.array(about), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint of a run with these settings; None where there is no file yet.

        Raises:
            OptionError: the file is no checkpoint, or of another run.
        """
        if not Path(path).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {name: file[name] for name in file.files if name != "about"}
            found = cls(about["settings"], about["step"], {}, {}, about["progress"])
        except Exception as error:  # zip, json and numpy raise several kinds
            raise OptionError(f"{path} is no checkpoint: choose another file, or delete it") from error
        wanted = json.loads(json.dumps(settings))
        if found.settings != wanted:
            names = sorted(
                name for name in {*wanted, *found.settings} if found.settings.get(name) != wanted.get(name)
            )
            raise OptionError(
                f"{path} belongs to a run with other {', '.join(names)}: delete it or repeat that run"
            )
        for name, array in arrays.items():
            kind, _, key = name.partition(":")
            (found.state if kind == "state" else found.best)[key] = array
        return found
