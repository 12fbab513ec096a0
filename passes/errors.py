"""Exceptions, one tree for the whole program.

* ObsOnnxError
    * InputError              bad input or usage: one clear line, exit code 2
        * ModelError          the file is no usable ONNX model
            * GradientError   the model cannot be differentiated as asked
        * DataError           calibration, evaluation or label arrays do not fit the model
        * OptionError         an option or a combination of options makes no sense
        * MissingRuntimeError the command needs a package that is not installed
    * VerificationError       a result broke a promise of the program; nothing is written
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "GradientError",
    "InputError",
    "MissingRuntimeError",
    "ModelError",
    "ObsOnnxError",
    "OptionError",
    "VerificationError",
]


class ObsOnnxError(Exception):
    """Base of all errors that obs-onnx raises on purpose."""


class InputError(ObsOnnxError):
    """Bad input or usage; the message is one sentence that says what to do."""


class ModelError(InputError):
    """The file is no usable ONNX model."""


class GradientError(ModelError):
    """The model cannot be differentiated as asked; the message names the node or the value."""


class DataError(InputError):
    """Arrays that do not fit the model; the message names the array."""


class OptionError(InputError):
    """An option, or a combination of options, that makes no sense."""


class MissingRuntimeError(InputError):
    """A package that the command needs is not installed; the message names the extra."""


class VerificationError(ObsOnnxError):
    """A result broke a promise of the program; nothing has been written."""
