"""Figures of models and files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from integer_operators import CASES, Case, graph

from obs_onnx.evaluation.model_figures import compressed_bytes, figures
from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.costs.memory import Peak


def test_compressed_bytes_are_those_of_a_zip_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 7, 50_000, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a", "a")
        expected = archive.getinfo("a").compress_size
    assert compressed_bytes([tmp_path / "a"], chunk=4096) == expected
    assert compressed_bytes([tmp_path / "a", tmp_path / "a"]) == 2 * expected


@pytest.mark.parametrize("case", CASES, ids=str)
def test_integers_count_as_parameters_of_few_bits(case: Case) -> None:
    model = ir.from_proto(graph(case))
    found = figures(model, None, None, RunCost(100, Peak(96, "s"), {}, (), 25))
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    floats = [one for one in held.values() if one.dtype == ir.DataType.FLOAT]
    assert found.parameters >= held["w"].size + sum(one.size for one in floats)
    assert 8 < found.weight_bits < 32
    assert found.integer_macs == 0.25
