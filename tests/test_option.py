"""A field is the whole of an option: check, record, documentation."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from repository import DOCS

from obs_onnx.option import Options, about, asked, described, option, options_of
from obs_onnx.passes.errors import OptionError, named, spelled


@dataclass(frozen=True, kw_only=True)
class Speed(Options, title="Speed"):
    rate: float = option(0.5, help="Of change.", above=0, most=1, metavar="SHARE")
    steps: int | None = option(None, help="Taken.", otherwise=f"as {named('rate')} says", least=1)


@dataclass(frozen=True, kw_only=True)
class Trip(Speed, title="Trip"):
    kind: str = option("bus", help="Of vehicle.", choices=("bus", "train"), common=1)
    stops: Sequence[str] = option((), help="Between.", flags="--stop")
    costs: Mapping[str, float] | None = option(None, help="Of parts.")
    data: object = option(None, help="Known.")
    plan: object = option(None, help="Kept to oneself.", flags="", recorded=False)


@dataclass(frozen=True, kw_only=True)
class Long(Trip):
    days: int = field(metadata=about("Spent.", least=2))


def test_everything_is_known_about_an_option() -> None:
    listed = {one.name: one for one in options_of(Trip)}
    assert list(listed) == ["rate", "steps", "kind", "stops", "costs", "data", "plan"]
    rate = listed["rate"]
    assert (rate.title, rate.type, rate.default, rate.flags) == ("Speed", "float", 0.5, ("--rate",))
    assert (rate.metavar, rate.bounds, rate.required) == ("SHARE", "more than 0 and at most 1", False)
    assert (listed["kind"].title, listed["stops"].flags, listed["plan"].flags) == ("Trip", ("--stop",), ())
    days = options_of(Long)[-1]
    assert (days.name, days.required, days.title) == ("days", True, "Trip")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0}, "rate 0: use more than 0 and at most 1"),
        ({"rate": 1.5}, "rate 1.5: use more than 0 and at most 1"),
        ({"rate": float("nan")}, "rate nan: use more than 0 and at most 1"),
        ({"steps": 0}, "steps 0: use at least 1"),
        ({"kind": "boat"}, "kind 'boat' is unknown: use bus or train"),
        ({"kind": None}, "kind None is unknown: use bus or train"),
    ],
)
def test_values_that_are_refused(given: Mapping[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Trip(**given)


def test_what_was_asked_is_strict_json() -> None:
    assert asked(Trip()) == {}
    assert asked(Trip(rate=0.5, steps=None, stops=())) == {}
    given = Trip(steps=3, stops=["a", "b"], costs={"fuel": float("inf")}, data=Path("x.npz"), plan=object())
    wanted = {"steps": 3, "stops": ["a", "b"], "costs": {"fuel": "inf"}, "data": "x.npz"}
    assert asked(given) == wanted
    assert json.loads(json.dumps(asked(given), allow_nan=False)) == wanted
    assert asked(Trip(data={"x": np.zeros(3)})) == {"data": "<dict>"}
    assert asked(Trip(data=np.zeros(3))) == {"data": "<ndarray>"}


def test_a_group_takes_its_options_from_another_one() -> None:
    assert Trip(rate=0.1, kind="train").part(Speed) == Speed(rate=0.1)
    assert Speed(rate=0.1).part(Trip) == Trip(rate=0.1)


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Trip().rate = 0.1


def test_names_are_spelled_where_they_are_read() -> None:
    error = OptionError(f"{named('round_to')} is about channels: use {named('mode', 'channels')}")
    assert str(error) == "round_to is about channels: use mode='channels'"
    flagged = error.spelled(lambda option, value: f"--{option} {value}".strip())
    assert flagged == "--round_to is about channels: use --mode channels"
    assert spelled("nothing {is} named") == "nothing {is} named"


def test_documentation() -> None:
    listed = {one.name: one for one in options_of(Trip)}
    assert described(listed["kind"]) == "Of vehicle. One of bus, train."
    assert described(listed["steps"]) == "Taken. At least 1. By default as rate says."


def test_the_page_of_options_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_options.py"))
    assert (DOCS / "options.md").read_text(encoding="utf-8") == script["page"](), (
        "run python docs/make_options.py"
    )
