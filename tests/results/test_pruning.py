from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from obs_onnx.io.atomic_files import write_text
from obs_onnx.io.json_file import jsonable
from obs_onnx.passes.errors import OptionError
from obs_onnx.report import Report, compressed_bytes, write_json


def test_json_keeps_the_contract(make_report: Callable[..., Report]) -> None:
    data = make_report().to_json()
    wanted = "schema model output mode criterion targets met before after output_error agreement bound layers"
    assert set(wanted.split()) | {"frozen", "seconds"} <= set(data)
    figures = data["after"]
    assert isinstance(figures, dict)
    names = {"parameters", "nonzero", "macs", "file_bytes", "latency_ms", "runtime", "accuracy"}
    assert names <= set(figures)
    assert figures["latency_ms"] == {"median": 1.1, "p10": 0.9, "p90": 1.2, "runs": 50}
    assert data["frozen"] == [{"node": "rnn", "op_type": "LSTM", "reason": "recurrent"}]
    assert data["bound"] == {"frobenius": 3.0, "spectral": 2.0, "blocked_by": []}


def test_json_is_strict_and_a_layer_tells_its_sparsity(
    tmp_path: Path, make_report: Callable[..., Report], make_bound: Callable[..., object]
) -> None:
    bound = make_bound(float("inf"), None, (("softplus", "Softplus"),))
    write_json(tmp_path / "r.json", make_report(bound=bound).to_json())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    (layer,) = data["layers"]
    assert layer["measured_error"] is None
    assert layer["sparsity"] == 0.75
    assert layer["shape"] == [10, 9]
    assert data["bound"]["frobenius"] is None
    assert data["bound"]["blocked_by"] == [{"node": "softplus", "op_type": "Softplus"}]


def test_jsonable_takes_numpy_and_refuses_what_has_no_place() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), 3: (np.bool_(True), float("-inf"), Path("x"))}
    assert jsonable(value) == {"a": 0.5, "b": [0, 1], "3": [True, None, "x"]}
    with pytest.raises(TypeError, match="object"):
        jsonable({"a": object()})


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(TypeError):
        write_json(target, {"bad": object()})
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["missing/out.json", "."])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        write_text(tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []


def test_compressed_bytes_are_those_of_a_zip_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 7, 50_000, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a", "a")
        expected = archive.getinfo("a").compress_size
    assert compressed_bytes([tmp_path / "a"], chunk=4096) == expected
    assert compressed_bytes([tmp_path / "a", tmp_path / "a"]) == 2 * expected


def test_json_is_ascii_whatever_the_names_are(tmp_path) -> None:
    names = ["\x1b[2J\x9b", "\u202e", "\udc80", "層"]
    write_json(tmp_path / "r.json", names)
    assert (tmp_path / "r.json").read_bytes().isascii()
    assert json.loads((tmp_path / "r.json").read_text()) == names
