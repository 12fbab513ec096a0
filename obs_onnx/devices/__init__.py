"""Devices: what their public sources say that a model should be like there.

In: the name of a profile, or the file of one. Out: multiples of channels, a kind of integers, budgets of
memory and flash, and the operators that run. Next: :mod:`obs_onnx.pruning` takes them as options.
Everything is imported on first use, so that the command line starts without loading models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obs_onnx.devices.profile import Profile, profiles, read_profile

__all__ = ["Profile", "profiles", "read_profile"]

_HOME = "obs_onnx.devices.profile"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME), name)
