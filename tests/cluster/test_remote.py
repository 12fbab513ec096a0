from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from obs_onnx.cluster.remote import merging_function, worker_function
from obs_onnx.cluster.versions import here


def test_what_a_task_gives_and_what_it_raises() -> None:
    work = worker_function()
    assert work(pickle.dumps(partial(sum, [1, 2])), here()) == ("gave", 3)
    how, error = work(pickle.dumps(partial(int, "x")), here())
    assert how == "raised"
    assert isinstance(error, ValueError)


def test_what_another_try_may_mend_is_for_the_scheduler() -> None:
    with pytest.raises(FileNotFoundError):
        worker_function()(pickle.dumps(partial(open, "/there/is/none")), here())


def test_another_version_is_refused_before_the_task_is_opened() -> None:
    how, (host, found) = worker_function()(b"no pickle", {"numpy": "0.1", "no-such-package": "1"})
    assert how == "refused"
    assert host
    assert found == {"numpy": here()["numpy"], "no-such-package": None}


def test_a_worker_without_this_package_can_read_the_function(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs obs-onnx[dask]")
    (tmp_path / "function").write_bytes(cloudpickle.dumps(worker_function()))
    script = (
        "import pickle, sys; sys.modules['obs_onnx'] = None; "
        "print(pickle.load(open('function', 'rb'))(b'', {'obs-onnx': '0.0'})[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "refused", done.stderr


def test_a_merge_passes_on_what_was_not_given() -> None:
    merge = merging_function()
    content = pickle.dumps(max)
    assert merge(content, ("gave", 1), ("gave", 2)) == ("gave", 2)
    error = ValueError("no")
    assert merge(content, ("gave", 1), ("raised", error)) == ("raised", error)
    assert merge(content, ("refused", "host"), ("gave", 1)) == ("refused", "host")
    how, found = merge(content, ("gave", 1), ("gave", "x"))
    assert how == "raised"
    assert isinstance(found, TypeError)
