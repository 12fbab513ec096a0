"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from obs_onnx.io.atomic_files import write_text
from obs_onnx.passes.errors import OptionError
from obs_onnx.report import write_json


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(TypeError):
        write_json(target, {"bad": object()})
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["missing/out.json", "."])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        write_text(tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []
