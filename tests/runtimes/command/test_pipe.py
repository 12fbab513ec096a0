"""Child processes: bytes there and back, ends, deadlines, last words, and nothing left behind."""

from __future__ import annotations

import gc
import sys
import time

import psutil
import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes.command.pipe import Child, Ended

ECHO = "import os\nwhile data := os.read(0, 65536):\n    os.write(1, data)"


def child(code: str) -> Child:
    return Child([sys.executable, "-c", code])


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def received(one: Child, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += one.read(size - len(found), soon())
    return found


def test_bytes_go_there_and_come_back() -> None:
    one = child(ECHO)
    data = bytes(range(256)) * 4000
    one.write([data[:100_000]], soon())
    assert received(one, 100_000) == data[:100_000]
    one.write((data[i : i + 7000] for i in range(100_000, 170_000, 7000)), soon())
    assert received(one, 70_000) == data[100_000:170_000]
    assert one.alive
    one.close()
    assert not one.alive


def test_no_more_than_asked_for_is_read() -> None:
    one = child("import os\nos.write(1, b'abcdef')")
    assert one.read(1, soon()) == b"a"
    assert received(one, 5) == b"bcdef"
    for _ in range(2):  # still the end when asked again
        with pytest.raises(Ended):
            one.read(1, soon())
    one.close()


def test_waits_end() -> None:
    one = child("import time\ntime.sleep(600)")
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        one.read(1, soon(0.1))
    with pytest.raises(TimeoutError):
        one.write([bytes(10**7)], soon(0.1))
    assert time.monotonic() - start < 10
    one.kill()
    assert one.status() == "signal SIGKILL"


def test_who_reads_no_more_is_at_its_end() -> None:
    one = child("import os\nos.close(0)\nos.write(1, b'x')\nimport time\ntime.sleep(600)")
    assert one.read(1, soon()) == b"x"
    with pytest.raises(Ended):
        one.write([bytes(10**6)], soon())
    one.kill()


def test_what_the_parts_raise_is_raised() -> None:
    one = child(ECHO)

    def parts():
        yield b"abc"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.write(parts(), soon())
    one.close()


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [
        ("import sys\nsys.stderr.write('first\\nlast one\\n')\nsys.exit(3)", "last one", "exit status 3"),
        ("import sys\nsys.stderr.write('half a line')\n", "half a line", "exit status 0"),
        ("import sys\nsys.stderr.write('a\\rb\\r\\n\\n  \\n')\nsys.exit(1)", "b", "exit status 1"),
        ("import os, sys\nsys.stderr.write('x' * 5000)\nsys.stderr.flush()\nos.kill(os.getpid(), 15)",
         "x" * 300, "signal SIGTERM"),
        ("pass", "", "exit status 0"),
    ],
)  # fmt: skip
def test_last_words_and_how_it_ended(code: str, words: str, status: str) -> None:
    one = child(code)
    with pytest.raises(Ended):
        one.read(1, soon())
    assert one.status() == status
    assert one.last_words() == words
    one.close()


def test_a_dropped_child_ends_with_all_that_it_started() -> None:
    one = child("import os, subprocess\nsubprocess.Popen(['sleep', '600'])\nos.write(1, b'x')\n" + ECHO)
    assert one.read(1, soon()) == b"x"
    processes = [psutil.Process(one.pid), *psutil.Process(one.pid).children(recursive=True)]
    assert len(processes) == 2
    del one
    gc.collect()
    _, left = psutil.wait_procs(processes, timeout=5)
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("command", [["/no/such/program"], ["a\0b"]])
def test_what_cannot_be_started(command: list[str]) -> None:
    with pytest.raises(OptionError, match="cannot start"):
        Child(command)
