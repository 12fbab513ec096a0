from __future__ import annotations

from obs_onnx.passes.errors import reason
from obs_onnx.passes.printable import first_of, one_line, printable


def test_what_does_not_show_is_escaped() -> None:
    assert printable("weight ß 層 🙂 [red] 'a'") == "weight ß 層 🙂 [red] 'a'"
    assert printable("\x1b[2J\r\n\x9b\u202e\u2028\udc80\x00") == (r"\x1b[2J\r\n\x9b\u202e\u2028\udc80\x00")


def test_messages_of_others_are_one_line_of_bounded_length() -> None:
    assert one_line(" a\n\tb ") == "a b"
    assert len(one_line("x " * 1000)) == 300
    assert reason(ValueError("x" * 1000)).endswith("...")


def test_of_many_names_the_first_ones_are_shown() -> None:
    assert first_of([], 2) == ""
    assert first_of(["a", "b"], 2) == "a, b"
    assert first_of(["a", "b", "c", "d"], 2) == "a, b and 2 more"
