"""Records as plain values and arrays, and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from obs_onnx.work.layout import Arrays, built, flat


@dataclass(frozen=True)
class Point:
    step: int
    loss: float
    share: float | None = None


@dataclass(frozen=True)
class Record:
    name: str
    weights: dict[str, NDArray[np.float32]]
    history: tuple[Point, ...]
    kept: Mapping[int, NDArray[np.bool_]]
    causes: Counter[str] = field(default_factory=Counter)
    names: frozenset[str] = frozenset()
    pair: tuple[int, str] = (1, "one")
    best: Point | None = None


RECORD = Record(
    "one",
    {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.zeros(0, np.float32)},
    (Point(0, 0.1), Point(1, float("inf"), np.float64(0.25))),
    {3: np.array([True, False])},
    Counter({"busy": 2}),
    frozenset({"b", "a"}),
    (2, "two"),
    Point(np.int64(2), 1),
)


def through(value: object, kind: type) -> object:
    arrays: Arrays = {}
    return built(kind, json.loads(json.dumps(flat(value, arrays))), arrays)


def test_a_record_comes_back_as_it_was() -> None:
    found = through(RECORD, Record)
    assert isinstance(found, Record)
    assert found.history == RECORD.history
    assert (found.name, found.causes, found.names, found.pair) == ("one", {"busy": 2}, {"a", "b"}, (2, "two"))
    assert isinstance(found.causes, Counter)
    assert found.best == Point(2, 1.0)
    for name, array in RECORD.weights.items():
        assert found.weights[name].dtype == array.dtype
        assert np.array_equal(found.weights[name], array)
    assert found.kept[3].tolist() == [True, False]


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, -0.0, float("inf")])
def test_numbers_keep_all_their_bits(value: float) -> None:
    assert np.float64(through(value, float)).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        (float, "1"),
        (int, 1.5),
        (bool, 1),
        (Point, {"step": 1}),
        (Point, {"step": 1, "loss": 1.0, "share": None, "more": 1}),
        (Point, {"step": 1, "loss": "much", "share": None}),
        (Point, [1, 2.0, None]),
        (np.ndarray, "7"),
        (np.ndarray, 7),
        (list[int], {"a": 1}),
        (dict[str, int], [["a"]]),
        (tuple[int, str], [1]),
        (object, 1),
    ],
)
def test_what_is_of_another_type_is_a_value_error(kind: type, tree: object) -> None:
    with pytest.raises(ValueError):
        built(kind, tree, {})


@pytest.mark.parametrize("value", [object(), np.array([None]), {"a": object()}])
def test_what_cannot_be_kept_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be kept"):
        flat(value, {})
