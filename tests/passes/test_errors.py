"""Messages that name options the way they were written."""

from __future__ import annotations

import pytest

from obs_onnx.passes.errors import DataError, InputError, ModelError, OptionError, named, spelled


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
