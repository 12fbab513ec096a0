"""Exceptions, one tree for the whole program.

* ObsOnnxError
    * InputError              bad input or usage: one clear line, exit code 2
        * ModelError          the file is no usable ONNX model
            * GradientError   the model cannot be differentiated as asked
        * DataError           calibration, evaluation or label arrays do not fit the model
        * OptionError         an option or a combination of options makes no sense
        * MissingRuntimeError the command needs a package that is not installed
    * VerificationError       a result broke a promise of the program; nothing is written

A message names an option by :func:`named`; it is spelled where the message is read: ``str(error)`` writes a
keyword of Python, the command line its own flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = [
    "DataError",
    "GradientError",
    "InputError",
    "MissingRuntimeError",
    "ModelError",
    "ObsOnnxError",
    "OptionError",
    "VerificationError",
    "keyword",
    "named",
    "spelled",
]

_NAMED = re.compile("\x02([^\x1f]*)\x1f([^\x03]*)\x03")


def named(option: str, value: str = "") -> str:
    """An option, and a value of it, for a text that is spelled later."""
    return f"\x02{option}\x1f{value}\x03"


def keyword(option: str, value: str) -> str:
    """An option as Python writes it: ``mode``, ``mode='weights'``."""
    return f"{option}={value!r}" if value else option


def spelled(text: str, spell: Callable[[str, str], str] = keyword) -> str:
    """``text`` with every :func:`named` option as ``spell(option, value)`` writes it."""
    return _NAMED.sub(lambda found: spell(found[1], found[2]), text)


class ObsOnnxError(Exception):
    """Base of all errors that obs-onnx raises on purpose."""


class InputError(ObsOnnxError):
    """Bad input or usage; the message is one sentence that says what to do."""

    def __str__(self) -> str:
        return self.spelled()

    def spelled(self, spell: Callable[[str, str], str] = keyword) -> str:
        """The message, with options as ``spell`` writes them; see :func:`spelled`."""
        return spelled(super().__str__(), spell)


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
