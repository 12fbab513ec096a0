"""What a user may ask for, and what is refused."""

from __future__ import annotations

import pytest

from obs_onnx.allocation.targets import Targets, parse_bytes, parse_targets
from obs_onnx.passes.errors import OptionError


class TestTargets:
    def test_forms(self) -> None:
        expected = Targets(sparsity=0.9, drop=0.005)
        assert parse_targets(["sparsity=0.9", "drop = 0.5%"]) == expected
        assert parse_targets({"sparsity": 0.9, "drop": "0.5%"}) == expected
        assert parse_targets([]).as_dict() == {}
        assert expected.as_dict() == {"sparsity": 0.9, "drop": 0.005}
        costs = Targets(macs=0.5, params=0.25, error=0.02)
        assert parse_targets(["macs=50%", "params=.25", "error=2%"]) == costs

    @pytest.mark.parametrize(
        ("text", "size"),
        [("500KB", 500_000), ("4096", 4096), ("1.5 MiB", 3 << 19), ("0.5", 0.5), (".25", 0.25), ("30%", 0.3)],
    )
    def test_a_size_is_a_number_of_bytes_or_a_share(self, text: str, size: float) -> None:
        assert parse_targets({"size": text}) == Targets(size=size)
        assert parse_targets([f"ram={text}"]) == Targets(ram=size)

    @pytest.mark.parametrize(
        ("text", "limits", "shown"),
        [
            ("latency=0.5", {"latency": 0.5}, 0.5),
            ("latency=25%", {"latency": 0.25}, 0.25),
            ("latency=4ms", {"latency_ms": 4.0}, "4ms"),
            ("latency=.5 ms", {"latency_ms": 0.5}, "0.5ms"),
            ("latency=800us", {"latency_ms": 0.8}, "0.8ms"),
            ("latency=2s", {"latency_ms": 2000.0}, "2000ms"),
            ("latency=min", {"fastest": True}, "min"),
        ],
    )
    def test_a_latency_is_a_share_a_time_or_the_least(self, text: str, limits: dict, shown: object) -> None:
        found = parse_targets([text])
        assert found == Targets(**limits)
        assert found.as_dict() == {"latency": shown}
        assert found.timed
        assert not parse_targets(["macs=0.5"]).timed

    def test_the_least_latency_needs_a_bound(self) -> None:
        assert not parse_targets(["latency=min"]).bounded
        assert not parse_targets([]).bounded
        assert all(parse_targets([*more, "latency=min"]).bounded for more in (["error=0.1"], ["drop=1%"]))
        assert parse_targets(["latency=0.5"]).bounded
        for other in ("macs=0.5", "size=4KB", "ram=0.5", "params=0.5"):
            with pytest.raises(OptionError, match=r"target latency=min .* give a latency"):
                parse_targets([other, "latency=min"])

    @pytest.mark.parametrize(
        "text",
        [
            "sparsity",
            "sparsity=",
            "sparsity=x",
            "sparsity=0",
            "sparsity=1",
            "error=-0.1",
            "error=nan",
            "drop=inf",
            "drop=200%",
            "speed=2",
            "=0.5",
            "latency=4",
            "latency=1.5",
            "latency=0ms",
            "latency=fast",
            "latency=-3ms",
            "latency=0",
            "macs=0",
            "macs=2x",
            "params=1",
            "params=-10%",
            "size=200%",
            "size=0%",
            "ram=0",
            "ram=lots",
        ],
    )
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(OptionError, match="target"):
            parse_targets([text])

    @pytest.mark.parametrize(
        ("text", "size"),
        [("4096", 4096), ("500KB", 500_000), ("1.5 GiB", 3 << 29), ("2g", 2 * 10**9), (".5M", 500_000)],
    )
    def test_bytes(self, text: str, size: int) -> None:
        assert parse_bytes(text) == size

    @pytest.mark.parametrize("text", ["", "much", "-5", "4 bytes", "1e3", "KB"])
    def test_no_bytes(self, text: str) -> None:
        with pytest.raises(OptionError, match="is not a size"):
            parse_bytes(text)
