from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from obs_onnx.io.json_file import write_json
from obs_onnx.results.pruning import Report


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
