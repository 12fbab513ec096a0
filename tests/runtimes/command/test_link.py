"""Workers that die, hang, or talk nonsense, and shells on the way to them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest
from odd_workers import RELU, X

from obs_onnx.passes.errors import ModelError, OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.command.worker import frames

RAW = """
import os, sys, time
GREETING = {greeting!r}
def say(data):
    os.write(1, data)
def hear():
    return os.read(0, 10**6)
{body}
time.sleep(600)
"""


@pytest.fixture
def raw(script):
    """``raw(body)`` -> the command of something that is no worker."""
    return lambda body: script(RAW.format(greeting=frames.GREETING, body=body))


def test_what_is_printed_over_there_does_not_disturb(odd):
    command = odd(
        "def _run(self, header, payload):\n"
        "    print('x' * 300_000, flush=True)\n"
        "    os.system('echo from a child')\n"
        "    os.write(2, b'y' * 3_000_000)\n"
        "    return super()._run(header, payload)"
    )
    with open_runtime(f"command,timeout=30:{command}", threads=1) as runtime:
        for _ in range(3):
            assert runtime.session(RELU).run({"x": X})["y"].tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
        ("os.write(2, b'\\x1b[31mred\\n'); os._exit(1)", r"exit status 1 .*: +\[31mred"),
        ("os.write(2, b'before\\nit hurts\\n'); os._exit(3)", "exit status 3 .*: it hurts"),
        ("os._exit(0)", "exit status 0"),
        ("os.write(9, b'')", "Bad file descriptor"),
    ],
)
def test_a_worker_that_dies_is_started_again(odd, tmp_path, body, what):
    mark = tmp_path / "once"
    command = odd(
        "def _run(self, header, payload):\n"
        f"    if not os.path.exists({str(mark)!r}):\n"
        f"        open({str(mark)!r}, 'w').close()\n"
        f"        {body}\n"
        "    return super()._run(header, payload)"
    )
    with open_runtime(f"command,timeout=20:{command}", threads=1) as runtime:
        session = runtime.session(RELU)
        with pytest.raises(ModelError, match=what) as caught:
            session.run({"x": X})
        assert "\n" not in str(caught.value)
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]
        assert len(session.time({"x": X}, 2)) == 2


def test_killed_from_outside_and_between_requests():
    with open_runtime(f"command:{sys.executable}", threads=1) as runtime:
        session = runtime.session(RELU)
        runtime.link._child._process.kill()
        gone = time.monotonic() + 20
        while runtime.link._child.alive and time.monotonic() < gone:
            time.sleep(0.01)
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]


def test_killed_during_a_request(odd):
    command = odd("def _run(self, header, payload):\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        session = runtime.session(RELU)
        timer = threading.Timer(0.2, runtime.link._child._process.kill)
        timer.start()
        with pytest.raises(ModelError, match="ended with signal SIGKILL during 'run' for the model"):
            session.run({"x": X})
        timer.join()


@pytest.mark.parametrize("where", ["_run", "_load", "_time"])
def test_a_worker_that_hangs_is_ended_in_time(odd, where):
    command = odd(f"def {where}(self, header, payload):\n    os.write(2, b'stuck')\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        runtime.link.timeout = 0.5 if where == "_load" else 10.0
        start, asked = time.monotonic(), f"did not answer '{where[1:]}' for the model within .*: stuck"
        if where == "_load":
            with pytest.raises(ModelError, match=asked):
                runtime.session(RELU)
        else:
            session = runtime.session(RELU)
            runtime.link.timeout = 0.3
            with pytest.raises(ModelError, match=asked):
                session.time({"x": X}, 1) if where == "_time" else session.run({"x": X})
        assert time.monotonic() - start < 20


def test_a_worker_that_does_not_read_is_ended_in_time(odd):
    command = odd("def _run(self, header, payload):\n    time.sleep(600)")
    with open_runtime(f"command:{command}", threads=1) as runtime:
        runtime.session(RELU)
        with pytest.raises(ModelError, match=r"did not answer 'run' for it within 0\.5 s"):
            runtime.link.request("run", {}, 10**7, lambda: [bytes(10**7)], 0.5, "it")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("say(b'Welcome there')", OptionError, "did not start a worker within 1 s: Welcome there"),
        ("say(b'x' * 200_000)", OptionError, "starts no worker: it sends: b'xxx"),
        ("say(GREETING[:-5]); sys.exit('no such file')", OptionError, "exit status 1 .*: no such file"),
        ("say(b'motd' + GREETING + b'not a frame at all.........')", ModelError, "no frame but b'not '"),
        ("say(GREETING + b'OB')", ModelError, "did not answer 'hello'"),
        ("say(GREETING + b'OB'); sys.exit()", ModelError, "ended with exit status 0 during 'hello'"),
        (
            "say(GREETING + b'OBSF' + (5).to_bytes(4, 'big') + (10**13).to_bytes(8, 'big'))",
            ModelError,
            "payload of 10000000000000 bytes",
        ),
        (
            "say(GREETING + b'OBSF' + (5).to_bytes(4, 'big') + bytes(8) + b'[1,2]')",
            ModelError,
            "no JSON object",
        ),
        (
            "say(GREETING + b'OBSF' + (10).to_bytes(4, 'big') + bytes(8) + b'{\"id\": 77}')",
            ModelError,
            "the answer to 77 instead of 1",
        ),
        (
            "say(GREETING + b'OBSF' + (21).to_bytes(4, 'big') + bytes(8) + b'{\"id\": 1, \"ok\": true}')",
            OptionError,
            "another protocol",
        ),
        (
            "say(GREETING + b'OBSF' + (2**24).to_bytes(4, 'big') + bytes(8)); os.close(1)",
            ModelError,
            "ended with its output closed",
        ),
    ],
)
def test_garbage_on_the_pipe(raw, body, error, message):
    with pytest.raises(error, match=message) as caught:
        open_runtime(f"command,timeout=1:{raw(body)}")
    assert "\n" not in str(caught.value)


def test_a_python_without_numpy(tmp_path):
    venv = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    with pytest.raises(OptionError, match=r"before it started a worker: .*No module named 'numpy'"):
        open_runtime(f"command:{venv / 'bin' / 'python'}")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_shell_on_the_way_like_that_of_ssh(tmp_path, python):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "Welcome to $1"\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    with open_runtime(f"command:{ssh} board {python}", threads=1) as runtime:
        assert runtime.session(RELU).run({"x": X})["y"].tolist() == [[0, 2]]


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_children_of_the_command_end_with_it(tmp_path):
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\nsleep 600 &\n{sys.executable} "$@"\n')
    script.chmod(0o755)
    runtime = open_runtime(f"command:{script}", threads=1)
    children = psutil.Process(runtime.link._child.pid).children(recursive=True)
    assert len(children) >= 2
    runtime.close()
    _, left = psutil.wait_procs(children, timeout=5)  # a killed process takes a moment to be gone
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_dropped_runtime_ends_its_worker():
    runtime = open_runtime(f"command:{sys.executable}", threads=1)
    child = psutil.Process(runtime.link._child.pid)
    del runtime
    gc.collect()
    assert not child.is_running()


def test_an_interrupt_does_not_shift_the_answers(monkeypatch):
    with open_runtime(f"command:{sys.executable}", threads=1) as runtime:
        session = runtime.session(RELU)
        with monkeypatch.context() as patch:

            def interrupt(read):
                raise KeyboardInterrupt

            patch.setattr(frames, "decode", interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.run({"x": X + 5})
        assert session.run({"x": X})["y"].tolist() == [[0, 2]]
