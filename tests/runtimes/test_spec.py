"""What a SPEC of a runtime may say, and the options of onnxruntime sessions."""

from __future__ import annotations

import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.runtimes import calibration_runtime, open_runtime
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.spec import format_spec, kind_of, split_command, split_spec

TWO = {"timeout": "5", "arena": "off"}


@pytest.mark.parametrize(
    ("spec", "kind", "where", "options"),
    [
        ("onnxruntime", "onnxruntime", "", {}),
        ("onnxruntime:", "onnxruntime", "", {}),
        ("onnxruntime:cuda", "onnxruntime", "cuda", {}),
        ("onnxruntime,arena=off", "onnxruntime", "", {"arena": "off"}),
        ("onnxruntime:cpu, arena = off,pattern=on", "onnxruntime", "cpu", {"arena": "off", "pattern": "on"}),
        ("openvino:AUTO:GPU,CPU,precision=f16", "openvino", "AUTO:GPU,CPU", {"precision": "f16"}),
    ],
)
def test_spec(spec, kind, where, options):
    assert kind_of(spec) == kind
    assert split_spec(spec) == (where, options)
    assert split_spec(format_spec(kind, where, options)) == (where, options)


@pytest.mark.parametrize(
    ("spec", "prefix", "options"),
    [
        ("command:ssh board python3", "ssh board python3", {}),
        ("command,timeout=5,arena=off: docker run -v a:b,c=d", "docker run -v a:b,c=d", TWO),
    ],
)
def test_spec_of_a_command(spec, prefix, options):
    assert split_command(spec) == (prefix, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "onnxruntime:cpu,speed=1",
            "no option 'speed'; it has optimize, arena, pattern, spinning",
        ),
        ("onnxruntime:cpu,arena=no", "arena=no of the runtime onnxruntime: use on or off"),
        ("onnxruntime,optimize=fully", "optimize=fully .*: use all or extended or basic or off"),
        ("onnxruntime,arena=on,arena=off", "gives 'arena' twice"),
        ("onnxruntime,arena=on,fast", "'fast' in the runtime .* is not KEY=VALUE"),
        ("onnxruntime,arena=", "'arena=' in the runtime .* is not KEY=VALUE"),
        ("onnxruntime:cpu,arena", "no provider 'cpu,arena' here; available: "),
        ("onnxruntime2", "unknown runtime 'onnxruntime2'"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(OptionError, match=message):
        open_runtime(spec)


def test_the_environment_has_what_was_given():
    plain = open_runtime("onnxruntime", threads=1)
    assert "options" not in plain.environment()
    chosen = open_runtime("onnxruntime:cpu,arena=off,optimize=off", threads=1)
    assert chosen.environment()["options"] == {"arena": "off", "optimize": "off"}
    assert chosen.spec == "onnxruntime:CPUExecutionProvider,arena=off,optimize=off"
    assert open_runtime(chosen.spec, threads=1).environment() == chosen.environment()
    sleepy = open_runtime("onnxruntime", threads=1, spinning=False)
    assert sleepy.environment()["options"] == {"spinning": "off"}
    awake = open_runtime("onnxruntime,spinning=on", threads=1, spinning=False)
    assert awake.environment()["options"] == {"spinning": "on"}


def test_calibration_stays_in_this_process():
    given = calibration_runtime("onnxruntime:cpu,arena=off", threads=1)
    assert isinstance(given, OrtRuntime)
    assert given.environment()["options"] == {"spinning": "off", "arena": "off"}
    for spec in ("openvino", "openvino:GPU", "command:ssh board python3"):
        local = calibration_runtime(spec, threads=2)
        assert isinstance(local, OrtRuntime)
        assert (local.provider, local.threads) == ("CPUExecutionProvider", 2)
