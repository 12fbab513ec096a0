"""Boundaries turn what goes wrong with what users gave into errors that say where; text is made to show."""

from __future__ import annotations

import pytest

from obs_onnx.passes.errors import (
    DataError,
    InputError,
    ModelError,
    OptionError,
    VerificationError,
    boundary,
    named,
    spelled,
)


def dashed(option: str, value: str) -> str:
    return f"--{option.replace('_', '-')} {value}".rstrip()


def test_options_are_spelled_as_python_has_them_unless_told_otherwise() -> None:
    error = OptionError(f"{named('round_to')} goes with {named('mode', 'channels')} only")
    assert str(error) == "round_to goes with mode='channels' only"
    assert error.spelled(dashed) == "--round-to goes with --mode channels only"


def test_values_may_hold_anything_and_other_text_stays() -> None:
    text = f"a 'b' \\1 {{c}} {named('layer', 'x=0.5: y')}{named('d')}"
    assert spelled(text) == "a 'b' \\1 {c} layer='x=0.5: y'd"
    assert spelled("plain", dashed) == "plain"


@pytest.mark.parametrize("kind", [ModelError, DataError, OptionError])
def test_bad_input_is_caught_as_one(kind: type[InputError]) -> None:
    with pytest.raises(InputError, match=r"^threads is off$"):
        raise kind(f"{named('threads')} is off")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b"), "m.onnx: a b"),
        (KeyError("a"), "m.onnx: KeyError: 'a'"),
        (AssertionError(), "m.onnx: AssertionError"),
        (RecursionError("too deep"), "m.onnx: too deep"),
        (MemoryError(), "m.onnx: MemoryError"),
        (OverflowError("large"), "m.onnx: OverflowError: large"),
        (StopIteration(), "m.onnx: StopIteration"),
        (ZeroDivisionError("division by zero"), "m.onnx: ZeroDivisionError: division by zero"),
    ],
)
def test_any_exception_is_one_of_what_was_given(error: Exception, text: str) -> None:
    with pytest.raises(ModelError) as caught, boundary("m.onnx"):
        raise error
    assert str(caught.value) == text
    assert caught.value.__cause__ is error


def test_errors_of_the_program_pass() -> None:
    for error in (DataError("data"), VerificationError("promise")):
        with pytest.raises(type(error)) as caught, boundary("m.onnx"):
            raise error
        assert caught.value is error


def test_the_end_of_the_program_passes_where_no_code_of_the_user_runs() -> None:
    with pytest.raises(SystemExit), boundary("m.onnx"):
        raise SystemExit(3)
    with pytest.raises(DataError, match="ended the program"), boundary("f.py:f", DataError, foreign=True):
        raise SystemExit(3)
    with pytest.raises(KeyboardInterrupt), boundary("f.py:f", DataError, foreign=True):
        raise KeyboardInterrupt
