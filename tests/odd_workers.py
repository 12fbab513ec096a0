"""Workers behind a command that do something else than they should, and a model to load."""

from __future__ import annotations

import gc
import os
import shlex
import sys

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.command.bundle import library

OTHER = os.environ.get("OBS_ONNX_OTHER_PYTHON")
PYTHONS = [
    pytest.param(sys.executable, id="this"),
    pytest.param(
        OTHER,
        id="other",
        marks=pytest.mark.skipif(
            not OTHER, reason="set OBS_ONNX_OTHER_PYTHON to a Python that has another onnxruntime"
        ),
    ),
]
ODD = """
import os, signal, sys, time
from obs_onnx_worker import server

class Odd(server.Worker):
{body}

server.main(Odd)
"""


@pytest.fixture(scope="module", params=PYTHONS)
def python(request):
    return request.param


@pytest.fixture(scope="module")
def runtime(python):
    """One that no test breaks."""
    with open_runtime(f"command:{python}", threads=1) as opened:
        yield opened


@pytest.fixture
def script(tmp_path):
    """``script(text, python)`` -> a command that runs it."""

    def write(text: str, python: str = sys.executable) -> str:
        path = tmp_path / "worker.py"
        path.write_text(text, encoding="utf-8")
        return shlex.join([python, str(path)])

    return write


@pytest.fixture
def odd(script):
    """``odd(body, python)`` -> the command of a worker whose class has ``body`` too."""

    def write(body: str, python: str = sys.executable) -> str:
        body = "\n".join(f"    {line}" for line in body.splitlines())
        return script(library() + ODD.format(body=body), python)

    return write


@pytest.fixture(autouse=True)
def nothing_stays():
    """Every process that a test started has ended and was reaped."""
    before = set(psutil.Process().children(recursive=True))
    yield
    gc.collect()
    left = [one for one in psutil.Process().children(recursive=True) if one not in before]
    assert [one.cmdline() for one in left if one.is_running()] == []


def one_node(op: str, kind: int = TensorProto.FLOAT, domain: str = "", opset: int = 17, ir_version: int = 8):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 2])],
        [helper.make_tensor_value_info("y", kind, ["N", 2])],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


RELU = one_node("Relu")
X = np.array([[-1, 2]], np.float32)
