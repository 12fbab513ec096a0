"""Signatures that tell work apart, and a cache that survives what happens to files."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from latency_cache import PLACE, write_many

from obs_onnx.latency.cache import LatencyCache, cache_folder, signature

BASE = "g (float[N,4] x) => (float[N,3] y) { a = Gemm <transB = 1> (x, w)  y = Relu (a) }"
W = np.ones((3, 4), np.float32)


def signed(make_model, text: str, feed: dict[str, np.ndarray] | None = None, **tensors: np.ndarray) -> str:
    model = make_model(text, tensors)
    return signature(model, feed or {"x": np.zeros((2, 4), np.float32)})


class TestSignature:
    def test_names_and_weights_do_not_count(self, make_model) -> None:
        base = signed(make_model, BASE, w=W)
        assert signed(make_model, BASE, w=7 * W) == base
        renamed = "g (float[N,4] u) => (float[N,3] r) { b = Gemm <transB = 1> (u, v)  r = Relu (b) }"
        assert signed(make_model, renamed, {"u": np.ones((2, 4), np.float32)}, v=W) == base

    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            (BASE.replace("Relu", "Sigmoid"), (3, 4)),
            (BASE.replace("transB = 1", "transB = 1, alpha = 2.0"), (3, 4)),
            (BASE.replace("(float[N,3] y)", "(float[N,3] y, float[N,3] a)"), (3, 4)),
            (BASE.replace("y = Relu (a)", "y = Add (a, a)"), (3, 4)),
            (BASE.replace("N,3", "N,5"), (5, 4)),
        ],
    )
    def test_what_is_done_counts(self, make_model, text: str, shape: tuple[int, int]) -> None:
        assert signed(make_model, text, w=np.ones(shape, np.float32)) != signed(make_model, BASE, w=W)

    def test_sizes_and_types_of_inputs_count(self, make_model) -> None:
        base = signed(make_model, BASE, w=W)
        assert signed(make_model, BASE, {"x": np.zeros((3, 4), np.float32)}, w=W) != base
        assert signed(make_model, BASE, {"x": np.zeros((2, 4), np.float64)}, w=W) != base
        assert signed(make_model, BASE, {"x": np.ones((2, 4), np.float32)}, w=W) == base

    def test_wiring_counts(self, make_model) -> None:
        text = "g (float[N,4] x) => (float[N,4] y) { a = Relu (x)  b = Exp (x)  y = Sub (a, b) }"
        assert signed(make_model, text) != signed(make_model, text.replace("Sub (a, b)", "Sub (b, a)"))

    def test_small_integers_are_operands(self, make_model) -> None:
        text = "g (float[N,4] x) => (float[N,M] y) { y = Tile (x, r) }"
        once, twice = (signed(make_model, text, r=np.array([1, n])) for n in (1, 2))
        assert once != twice
        text = "g (float[N,4] x) => (float[N,M] y) { y = Gather <axis = 1> (x, i) }"
        many = [signed(make_model, text, i=np.arange(100) * k % 4) for k in (1, 3)]
        assert many[0] == many[1]

    def test_sizes_that_follow_from_constants_count(self, make_model) -> None:
        text = "g (float[N,C,H] x) => (float[N,C,L] y) { y = Resize (x, , s) }"
        x = np.zeros((1, 2, 4), np.float32)
        found = set()
        for n in (2, 3):
            values = {"x": x, "y": np.zeros((1, 2, 4 * n), np.float32)}
            found.add(signed(make_model, text, values, s=np.array([1, 1, n], np.float32)))
        assert len(found) == 2

    def test_bodies_and_conditions(self, make_model) -> None:
        text = (
            "g (float[N,4] x, bool c) => (float[N,4] y) { a = Relu (x)  b = Exp (x)"
            " y = If (c) <then_branch = t () => (float[N,4] p) { p = Abs (a) },"
            " else_branch = e () => (float[N,4] q) { q = Abs (b) }> }"
        )
        feed = {"x": np.zeros((2, 4), np.float32), "c": np.array(True)}
        base = signed(make_model, text, feed)
        assert signed(make_model, text, {**feed, "c": np.array(False)}) != base
        swapped = text.replace("a = Relu (x)  b = Exp (x)", "b = Relu (x)  a = Exp (x)")
        assert signed(make_model, swapped, feed) != base


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OBS_ONNX_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("OBS_ONNX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "obs-onnx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "obs-onnx"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert cache_folder() == Path(tempfile.gettempdir()) / "obs-onnx"


class TestCache:
    def test_round_trip(self, cache_folder: Path) -> None:
        cache = LatencyCache(PLACE)
        assert (cache.get("a"), cache.timings("a")) == (None, 0)
        cache.put("a", 2.0)
        cache.put("a", 1.5)
        cache.put("b", 4.0)
        cache.put("a", 1.75)
        cache.save()
        again = LatencyCache(PLACE)
        assert (again.get("a"), again.timings("a")) == (1.5, 3)
        assert (again.get("b"), again.timings("b")) == (4.0, 1)
        assert again.path.is_relative_to(cache_folder)
        before = again.path.read_bytes()
        again.save()
        assert again.path.read_bytes() == before  # nothing new, nothing written

    @pytest.mark.parametrize("key", ["runtime", "version", "cpu", "options"])
    def test_places_are_kept_apart(self, key: str) -> None:
        cache = LatencyCache(PLACE)
        cache.put("a", 1.0)
        cache.save()
        assert LatencyCache({**PLACE, key: "other"}).get("a") is None
        assert LatencyCache(dict(reversed(PLACE.items()))).get("a") == 1.0

    @pytest.mark.parametrize(
        "line",
        [
            b"{", b"\xff\xfe\x00", b"[]", b'["k"]', b'["k", 1]', b'["k", "x", 1]', b'["k", NaN, 1]',
            b'["k", -1, 1]', b'["k", 1, 0]', b'["k", Infinity, 1]', b"[7, 1, 1]", b'{"k": 1}', b"null",
            b'["k", 1e400, 1]', b'["k", 1, 1e400]', b'["k", [1], 1]', b'["k", 0.0, 2]',
        ],
    )  # fmt: skip
    def test_lines_that_cannot_be_read_are_passed_over(self, line: bytes) -> None:
        cache = LatencyCache(PLACE)
        cache.put("a", 1.0)
        cache.save()
        with cache.path.open("ab") as file:
            file.write(line)  # as a program that is killed leaves it, without an end of line
        other = LatencyCache(PLACE)
        assert (other.get("a"), other.get("k")) == (1.0, None)
        other.put("b", 2.0)
        other.save()
        both = LatencyCache(PLACE)
        assert (both.get("a"), both.get("b"), both.get("k")) == (1.0, 2.0, None)

    def test_what_others_wrote_stays(self) -> None:
        one, other = LatencyCache(PLACE), LatencyCache(PLACE)
        one.put("a", 1.0)
        one.put("both", 3.0)
        other.put("b", 2.0)
        other.put("both", 2.5)
        one.save()
        other.save()
        found = LatencyCache(PLACE)
        assert [found.get(key) for key in ("a", "b", "both")] == [1.0, 2.0, 2.5]

    def test_programs_at_the_same_time(self) -> None:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=write_many, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        found = LatencyCache(PLACE)
        assert all(found.get(f"{n}.{i}") == n + i + 1 for n in range(2) for i in range(50))

    def test_its_size_is_bounded(self) -> None:
        for start in range(0, 60, 5):
            cache = LatencyCache(PLACE, entries=10)
            for number in range(start, start + 5):
                cache.put(str(number), 1.0 + number)
            cache.save()
        lines = cache.path.read_text().splitlines()
        assert len(lines) <= 3 * 10 + 7
        assert json.loads(lines[0])["cpu"] == "c"
        found = LatencyCache(PLACE)
        assert [found.get(str(n)) for n in range(50, 60)] == [1.0 + n for n in range(50, 60)]
        assert found.get("0") is None
        assert [path.name for path in cache.path.parent.iterdir()] == [cache.path.name]

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        cache = LatencyCache(PLACE, tmp_path / "file")
        cache.put("a", 1.0)
        cache.save()
        assert cache.get("a") == 1.0


def test_a_model_from_memory_has_a_signature(make_model) -> None:
    model = make_model(BASE, {"w": W})
    again = ir.from_proto(ir.to_proto(model))
    feed = {"x": np.zeros((2, 4), np.float32)}
    assert signature(model, feed) == signature(again, feed)
