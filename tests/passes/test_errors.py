"""Boundaries turn what goes wrong with what users gave into errors that say where; text is made to show."""

from __future__ import annotations

import pytest

from obs_onnx.passes.errors import DataError, ModelError, VerificationError, boundary, reason
from obs_onnx.passes.printable import one_line, printable


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


def test_what_does_not_show_is_escaped() -> None:
    assert printable("weight ß 層 🙂 [red] 'a'") == "weight ß 層 🙂 [red] 'a'"
    assert printable("\x1b[2J\r\n\x9b\u202e\u2028\udc80\x00") == (r"\x1b[2J\r\n\x9b\u202e\u2028\udc80\x00")


def test_messages_of_others_are_one_line_of_bounded_length() -> None:
    assert one_line(" a\n\tb ") == "a b"
    assert len(one_line("x " * 1000)) == 300
    assert reason(ValueError("x" * 1000)).endswith("...")
