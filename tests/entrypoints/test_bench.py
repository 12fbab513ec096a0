"""Models timed side by side, however they are given."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import bench
from obs_onnx.passes.errors import DataError, OptionError

QUICK = {"threads": 1, "seconds": 0.05, "min_runs": 5}


def test_files_and_models_in_memory_are_the_same(tmp_path: Path) -> None:
    onnx.save(nets.mlp(), tmp_path / "m.onnx")
    given = [tmp_path / "m.onnx", str(tmp_path / "m.onnx"), nets.mlp(), ir.from_proto(nets.mlp())]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found = bench([*given, nets.mlp().SerializeToString()], "onnxruntime", **QUICK)
    assert len(found.latencies) == 5
    assert len(bench(models=nets.mlp(), **QUICK).latencies) == 1
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match="at least one model"):
        bench([], **QUICK)


def test_what_it_was_timed_on() -> None:
    data = nets.data(0, 40, 12)
    assert bench(nets.mlp(), **QUICK).shapes == {"x": (1, 12)}
    found = bench(nets.mlp(), data=data, batch=3, **QUICK)
    assert (found.shapes, found.timed_on) == ({"x": (3, 12)}, "the first samples of ndarray")
    assert bench(nets.mlp(), feed={"x": data[:7]}, **QUICK).shapes == {"x": (7, 12)}
    with pytest.raises(OptionError, match="feed is all that is timed: leave out data"):
        bench(nets.mlp(), feed={"x": data}, data=data, **QUICK)
    with pytest.raises(DataError, match="no array for input 'x'"):
        bench(nets.mlp(), data={"image": data}, **QUICK)


def test_lengths_of_free_axes(make_proto) -> None:
    proto = make_proto("g (float[N,L,4] x) => (float[N,L,4] y) { y = Relu(x) }")
    assert bench(proto, sizes={"L": 9}, **QUICK).shapes == {"x": (1, 9, 4)}
    with pytest.raises(OptionError, match="sizes L=0: give a whole number of at least 1"):
        bench(proto, sizes={"L": 0}, **QUICK)
    x = np.zeros((8, 5, 4), np.float32)
    assert bench(proto, data=x, **QUICK).shapes == {"x": (1, 5, 4)}
