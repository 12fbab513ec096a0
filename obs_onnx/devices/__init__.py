"""Devices: what their public sources say that a model should be like there.

In: the name of a profile, or the file of one. Out: multiples of channels, a kind of integers, budgets of
memory and flash, and the operators that run. Next: :mod:`obs_onnx.pruning` takes them as options.
"""

from obs_onnx.devices.profile import Profile, profiles, read_profile

__all__ = ["Profile", "profiles", "read_profile"]
