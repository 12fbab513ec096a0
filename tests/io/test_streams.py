"""Devices and pipes are written to and stay what they are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from written_files import listed, write

from obs_onnx.io.atomic_files import check_writable, write_text
from obs_onnx.io.streams import is_stream
from obs_onnx.passes.errors import OptionError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes")


def test_what_is_a_stream(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(os.devnull)
    assert is_stream(os.devnull)
    assert is_stream(tmp_path / "link")
    for path in (tmp_path, tmp_path / "file", tmp_path / "none", "a\0b", ""):
        assert not is_stream(path)


def test_a_device_stays_one(tmp_path: Path) -> None:
    check_writable(os.devnull)
    (tmp_path / "null").symlink_to(os.devnull)
    write_text(tmp_path / "null", "text")
    assert Path(os.devnull).is_char_device()
    assert (tmp_path / "null").is_symlink()


def test_a_pipe_is_read_by_someone_or_refused(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    check_writable(pipe)
    with pytest.raises(OptionError, match="nobody reads from it"):
        write_text(pipe, "text")
    number, size = os.open(pipe, os.O_RDWR), 200_000  # more than a pipe holds

    def read() -> None:
        while len(got) < size:
            got.extend(os.read(number, size))

    reader = threading.Thread(target=read)
    reader.start()
    write_text(pipe, size * "x")
    reader.join(60)
    os.close(number)
    assert got == size * b"x"
    assert pipe.is_fifo()


def test_a_pipe_that_fails_takes_the_files_with_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_text("old")
    with pytest.raises(OptionError, match="pipe: nobody reads"):
        write(tmp_path, "a", "b", "pipe")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "pipe"]


@pytest.mark.parametrize("place", ["/dev/stdout", "out"])
def test_what_the_output_goes_to_gets_more(tmp_path: Path, place: str) -> None:
    code = (
        "from obs_onnx.io.atomic_files import *; print('first'); "
        f"check_writable({place!r}); write_text({place!r}, 'second\\n'); print('third')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=out, check=True)
    assert listed(tmp_path) == {"out": "first\nsecond\nthird\n"}
    if place != "out":
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stdout == "first\nsecond\nthird\n"
