"""Completion in shells: where the script goes, and what it completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        (None, ".local/share/obs-onnx/completion.zsh"),
        ("zsh", ".local/share/obs-onnx/completion.zsh"),
        ("fish", ".config/fish/completions/obs-onnx.fish"),
        pytest.param(
            "bash",
            ".local/share/bash-completion/completions/obs-onnx",
            marks=pytest.mark.skipif(not shutil.which("bash"), reason="no bash"),
        ),
    ],
)
def test_the_script(home: Path, shell: str | None, place: str) -> None:
    result = run("--install-completion" if shell is None else f"--install-completion={shell}")
    assert result.exit_code == 0, result.output
    assert f"written: {home / place}" in result.stdout
    assert "_OBS_ONNX_COMPLETE" in (home / place).read_text()


def test_what_is_wrong_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    result = run("--install-completion")
    assert (result.exit_code, result.stderr) == (
        2,
        "obs-onnx: no completion for tcsh: give one, --install-completion=bash\n",
    )
    (home / ".config").write_text("in the way")
    result = run("--install-completion=fish")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "number", "wanted"),
    [
        ("obs-onnx pr", 1, "prune"),
        ("obs-onnx prune --tar", 2, "--target"),
        ("obs-onnx prune --effort ", 3, "quick"),
    ],
)
def test_what_is_completed(words: str, number: int, wanted: str, tmp_path: Path) -> None:
    code = "from obs_onnx.cli import main; main(prog_name='obs-onnx')"
    asked = {"_OBS_ONNX_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert f"plain,{wanted}" in result.stdout.splitlines()
