"""Files that appear together in a folder, and what the folder holds."""

from __future__ import annotations

from pathlib import Path

from obs_onnx.io.atomic_files import together


def listed(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def write(folder: Path, *names: str) -> None:
    with together() as files:
        for name in names:
            files.new(folder / name).write_text("new")
