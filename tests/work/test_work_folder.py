"""A folder of finished pieces: nothing is computed twice, and nothing is read that does not belong there."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from obs_onnx.io.atomic_files import journal
from obs_onnx.passes.errors import OptionError
from obs_onnx.work.work_folder import NOWHERE, Work, open_work


@dataclass(frozen=True)
class Piece:
    array: NDArray[np.float64]
    error: float


ABOUT = {"model": "a", "option": {"targets": ["macs=0.5"], "seed": 1}}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return open_work(tmp_path / "w", lambda: ABOUT, False).stage("solve layers", 1)


def counting(value: object) -> tuple[Callable[[], object], list[object]]:
    """A task that gives a value, and what it has given so far."""
    given: list[object] = []

    def task() -> object:
        given.append(value)
        return value

    return task, given


def test_a_finished_piece_is_not_computed_again(work: Work) -> None:
    task, given = counting(Piece(np.arange(3.0), 0.5))
    for _ in range(2):
        found = work.finish(Piece, {"a": task, "b": task})
        assert [one.array.tolist() for one in found.values()] == [[0, 1, 2], [0, 1, 2]]
        assert found["a"].error == 0.5
    assert len(given) == 2
    assert list(work.known(Piece, ["a", "c", "b"])) == ["a", "b"]


def test_each_piece_is_kept_at_once(work: Work) -> None:
    def fails() -> float:
        raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        work.finish(float, {"a": lambda: 1.0, "b": fails}, lambda: done.append(1))
    assert work.known(float, ["a", "b"]) == {"a": 1.0}
    assert done == [1]
    assert [path.name.partition(".")[0] for path in work.folder.iterdir()] == ["solve-layers"]


def test_what_a_stage_depends_on_is_a_part_of_the_name(work: Work, tmp_path: Path) -> None:
    work.one(float, "a", lambda: 1.0)
    other = open_work(tmp_path / "v", lambda: {**ABOUT, "model": "b"}, False)
    assert not work.stage("solve layers", 2).known(float, ["a"])
    assert work.place("a").name not in {
        other.stage("solve layers", 1).place("a").name,
        work.stage("solve", 1).place("a").name,
        work.place("b").name,
    }


def test_without_a_folder_everything_is_computed() -> None:
    task, given = counting(1.0)
    stage = NOWHERE.stage("solve", object())  # of which there is no digest
    assert [stage.one(float, "a", task) for _ in range(2)] == [1.0, 1.0]
    assert len(given) == 2
    assert not stage.known(float, ["a"])


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.find(b"NUMPY", content.find(b"array 0")) + 130] ^= 1
    path.write_bytes(content)


def renamed(path: Path) -> None:
    path.write_bytes(path.with_name(f"other{path.suffix}").read_bytes())


def pickled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("about.npy", pickle.dumps("harm"))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncated, flipped, renamed, pickled, emptied])
def test_a_damaged_or_foreign_piece_is_computed_again(work: Work, harm: Callable[[Path], None]) -> None:
    task, given = counting(Piece(np.arange(3.0), 0.5))
    other = work.place("a").with_name("other.npz")
    work.one(Piece, "b", lambda: Piece(np.ones(3), 0.1))
    work.place("b").rename(other)
    work.one(Piece, "a", task)
    harm(work.place("a"))
    assert not work.known(Piece, ["a"])
    assert work.one(Piece, "a", task).array.tolist() == [0, 1, 2]
    assert len(given) == 2
    assert work.known(Piece, ["a"])["a"].error == 0.5


def test_a_piece_of_another_kind_is_not_used(work: Work) -> None:
    work.one(float, "a", lambda: 1.0)
    assert not work.known(Piece, ["a"])


def test_the_folder_says_what_it_is(work: Work, tmp_path: Path) -> None:
    text = (tmp_path / "w" / "README.txt").read_text()
    assert "--resume" in text
    assert "Delete it" in text
    assert json.loads((tmp_path / "w" / "run.json").read_text()) == ABOUT


def test_pieces_are_not_named_among_the_results(work: Work) -> None:
    with journal() as written:
        work.one(float, "a", lambda: 1.0)
    assert not written


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({**ABOUT, "model": "b"}, "of a run with another model: repeat that run"),
        (
            {"model": "b", "option": {"seed": 1, "effort": "quick"}},
            r"another model and another option \(effort, targets\)",
        ),
    ],
)
def test_pieces_of_another_run_are_refused(work: Work, tmp_path: Path, about: dict, words: str) -> None:
    work.one(float, "a", lambda: 1.0)
    with pytest.raises(OptionError, match=words):
        open_work(tmp_path / "w", lambda: about, True)


def test_pieces_of_a_run_that_cannot_be_told_are_refused(work: Work, tmp_path: Path) -> None:
    work.one(float, "a", lambda: 1.0)
    (tmp_path / "w" / "run.json").write_text("[")
    with pytest.raises(OptionError, match="another model and another option"):
        open_work(tmp_path / "w", lambda: ABOUT, True)


def test_a_run_without_pieces_gives_way(work: Work, tmp_path: Path) -> None:
    other = open_work(tmp_path / "w", lambda: {"model": "b"}, False)
    assert json.loads((tmp_path / "w" / "run.json").read_text()) == {"model": "b"}
    assert other.about != work.about
