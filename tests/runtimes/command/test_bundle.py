"""The worker as one text: for old Pythons, without a trace of the project, and the same in a file."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys

import nets
import numpy as np

from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.command.bundle import bundle, library


def test_it_is_for_old_pythons() -> None:
    ast.parse(bundle(), feature_version=(3, 8))


def test_its_files_can_be_imported_where_the_project_is_missing(tmp_path) -> None:
    script = tmp_path / "files.py"
    script.write_text(
        f"{library()}"
        "from obs_onnx_worker import server\n"
        "from obs_onnx_worker.arrays import TYPES\n"
        "assert server.Worker and TYPES and not any(name.startswith('obs_onnx.') for name in sys.modules)\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, "-I", "-W", "error", script], check=True)


def test_a_copy_is_a_worker(tmp_path) -> None:
    copy = tmp_path / "worker.py"
    command = [sys.executable, "-m", "obs_onnx.runtimes.command"]
    written = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    copy.write_text(written)
    assert copy.read_text() == bundle()
    model, feed = nets.mlp().SerializeToString(), {"x": nets.data(0, 3, 12)}
    with open_runtime(f"command:{shlex.join([sys.executable, str(copy)])}", threads=1) as there:
        found = there.session(model).run(feed)
    np.testing.assert_array_equal(found["y"], open_runtime(threads=1).session(model).run(feed)["y"])
