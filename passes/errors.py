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

What users give is opened inside of :func:`boundary`: whatever fails there is an error of what they gave, and
says where. Which exceptions libraries raise for a broken file needs no list. What is done once a result lies
in its file is :func:`tried`: whatever fails there is told, and takes nothing back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from obs_onnx.passes.printable import one_line, printable

__all__ = [
    "DataError",
    "GradientError",
    "InputError",
    "MissingRuntimeError",
    "ModelError",
    "ObsOnnxError",
    "OptionError",
    "Tried",
    "VerificationError",
    "boundary",
    "keyword",
    "named",
    "reason",
    "spelled",
    "tried",
]

T = TypeVar("T")

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
        return printable(spelled(super().__str__(), spell))


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


def reason(error: BaseException) -> str:
    """What an exception says, in one line; its type where the text alone would mean little."""
    said = one_line(str(error))
    telling = isinstance(error, MemoryError | OSError | RuntimeError | ValueError)
    if said and (telling or type(error).__module__ != "builtins"):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def boundary(where: str, kind: type[InputError] = ModelError, *, foreign: bool = False) -> Iterator[None]:
    """A place where what a user gave is looked at for the first time.

    Args:
        where: what begins the message: the file, node or option, and what was being done.
        kind: of the error.
        foreign: code of the user runs inside, which may also end the program.

    Raises:
        InputError: of ``kind``, for any exception that is none of the program's own; that one is its cause.
    """
    try:
        yield
    except ObsOnnxError:
        raise
    except Exception as error:
        raise kind(f"{where}: {reason(error)}") from error
    except SystemExit as error:
        if not foreign:
            raise
        raise kind(f"{where}: it ended the program (SystemExit {error.code})") from error


@dataclass(frozen=True)
class Tried(Generic[T]):
    """What came of a piece of work.

    Attributes:
        value: its result, or what is taken instead.
        failures: that it failed, and why.
    """

    value: T
    failures: tuple[str, ...] = ()


def tried(what: str, work: Callable[[], T], otherwise: T) -> Tried[T]:
    """Do ``work``; any exception but an interruption is told as a failure.

    Args:
        what: is not done where it fails.
        work: gives the value.
        otherwise: the value where it fails.
    """
    try:
        return Tried(work())
    except BrokenPipeError:
        raise  # nobody listens any more
    except Exception as error:
        return Tried(otherwise, (f"{what}: {reason(error)}",))
