from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from obs_onnx.io.json_file import write_json
from obs_onnx.results.pruning import Missed, Report, plain


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


@pytest.mark.parametrize(
    ("missed", "text"),
    [
        (Missed("macs", 0.05, 0.123412), "macs=0.05 is missed: 0.1235 was reached"),
        (
            Missed("size", 3000.0, 5344, 5344, "ask for more"),
            "size=3000 is missed: 5344 was reached, the least possible is 5344; ask for more",
        ),
        (Missed("latency", "4ms", "5.5ms"), "latency=4ms is missed: 5.5ms was reached"),
        (Missed("error", 0.0, 3e-4), "error=0 is missed: 0.0003 was reached"),
    ],
)
def test_a_missed_target_can_be_asked_for_as_it_reads(missed: Missed, text: str) -> None:
    assert str(missed) == text


@pytest.mark.parametrize("share", [0.08689, 0.1, 0.12345678, 0.99999, 1e-7, 0.3000000000001])
def test_shares_are_rounded_up(share: float) -> None:
    assert share * (1 - 1e-8) <= float(plain(share)) <= share * 1.001


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


def test_json_is_ascii_whatever_the_names_are(tmp_path) -> None:
    names = ["\x1b[2J\x9b", "\u202e", "\udc80", "層"]
    write_json(tmp_path / "r.json", names)
    assert (tmp_path / "r.json").read_bytes().isascii()
    assert json.loads((tmp_path / "r.json").read_text()) == names
