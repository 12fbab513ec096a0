"""Every runtime is an entry that can be found; a new one is a file and an entry."""

from __future__ import annotations

import sys
from pkgutil import resolve_name

import nets
import numpy as np
import pytest
from repository import ROOT

from obs_onnx import prune
from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes import RUNTIMES, calibration_runtime, open_runtime
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.registry import Entry, to_install
from obs_onnx.runtimes.spec import split_spec

SUNDIAL = '''
"""A runtime whose clock knows every model by its number of weights."""

import numpy as np
import onnx

from obs_onnx.runtimes.onnxruntime import OrtRuntime

OPENED = []


class SundialSession:
    def __init__(self, session, weights):
        self.inputs, self.outputs, self.run = session.inputs, session.outputs, session.run
        self.weights = weights

    def time(self, feed, runs):
        return [1e-6 * self.weights] * runs


class Sundial:
    in_process, affinity, quantum, threads = False, None, 4, 1

    def __init__(self, where, threads, custom_ops, *, options, spinning):
        OPENED.append((where, threads, custom_ops, options, spinning))
        self.spec, self._inner = f"sundial:{where}", OrtRuntime(None, 1)

    def session(self, model, external_data=None):
        weights = sum(int(np.prod(held.dims)) for held in onnx.load_from_string(model).graph.initializer)
        return SundialSession(self._inner.session(model, external_data), weights)

    def environment(self):
        return {"runtime": "sundial", "version": "1", "threads": 1}

    def machine(self):
        return {"cpu": "stone", "logical_cores": 1, "load_average": 0.0}
'''


@pytest.mark.parametrize("kind", RUNTIMES)
def test_what_an_entry_names_is_there(kind):
    entry = RUNTIMES[kind]
    assert callable(resolve_name(entry.place))
    assert entry.form.startswith(kind)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in entry.extras)


def test_the_first_runtime_is_the_one_that_calibrates():
    assert [kind for kind, entry in RUNTIMES.items() if entry.calibrates] == ["onnxruntime"]
    assert isinstance(open_runtime(), OrtRuntime)
    assert isinstance(calibration_runtime("nonsense"), OrtRuntime)


def test_what_to_install():
    assert to_install("onnxruntime") == "obs-onnx[cpu] (or [gpu], [ort-openvino], [training])"
    assert to_install("openvino") == "obs-onnx[openvino]"


def test_an_unknown_runtime_is_told_all_forms():
    with pytest.raises(OptionError) as caught:
        open_runtime("tpu:0")
    assert str(caught.value) == (
        "unknown runtime 'tpu:0': use onnxruntime[:PROVIDER], openvino[:DEVICE] or command:PREFIX, "
        "for example onnxruntime:CUDAExecutionProvider"
    )


def test_a_new_runtime_is_a_file_and_an_entry(tmp_path, monkeypatch):
    (tmp_path / "sundial.py").write_text(SUNDIAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RUNTIMES, "sundial", Entry("sundial:Sundial", "sundial[:GARDEN]", split=split_spec))
    with pytest.raises(OptionError, match=r"command:PREFIX or sundial\[:GARDEN\]"):
        open_runtime("tpu")
    assert isinstance(calibration_runtime("sundial:kew"), OrtRuntime)
    dense = nets.mlp()
    result = prune(
        dense,
        calib=nets.data(0, 200, 12),
        targets={"latency": 0.6},
        effort="quick",
        runtime="sundial:kew,shade=off",
        seed=0,
    )
    assert sys.modules["sundial"].OPENED == [("kew", None, (), {"shade": "off"}, True)]
    report = result.report
    assert report.met
    assert report.after.runtime == "sundial:kew"
    assert report.before.latency_ms.median == pytest.approx(1e-3 * nets.params(dense))
    held = sum(int(np.prod(value.shape)) for value in result.model.graph.initializers.values())
    assert report.after.latency_ms.median == pytest.approx(1e-3 * held)
    assert held <= 0.6 * nets.params(dense)
