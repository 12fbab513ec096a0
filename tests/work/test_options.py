"""Options about where finished pieces are kept."""

from __future__ import annotations

import pytest

from obs_onnx.option import asked
from obs_onnx.passes.errors import OptionError
from obs_onnx.work.options import WorkOptions


def test_resume_needs_a_folder() -> None:
    with pytest.raises(OptionError, match="resume goes on from a folder: name it with work"):
        WorkOptions(resume=True)


def test_they_are_no_part_of_what_was_asked() -> None:
    assert asked(WorkOptions(work="w", resume=True)) == {}
