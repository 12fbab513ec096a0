"""prune() takes exactly what its list of options says, and reports it."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass

import nets
import onnx_ir as ir
import pytest

from obs_onnx import finetune, pareto, prune, score
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.entrypoints.options.score import ScoreOptions
from obs_onnx.option import asked, option, options_of
from obs_onnx.passes.autodiff.optimizers import OPTIMIZERS
from obs_onnx.passes.errors import OptionError
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.pruning.options import ModeOptions
from obs_onnx.training.engines.registry import TRAINERS
from obs_onnx.training.options import TrainingOptions
from obs_onnx.training.settings import RATES

VERBS = [(prune, PruneOptions), (pareto, ParetoOptions), (score, ScoreOptions), (finetune, FinetuneOptions)]


@pytest.mark.parametrize(("verb", "group"), VERBS)
def test_signature_and_documentation(verb, group) -> None:
    listed = {one.name: one for one in options_of(group)}
    parameters = inspect.signature(verb).parameters
    assert next(iter(parameters)) == "model"
    assert set(parameters) == {"model", *listed}
    for name, one in listed.items():
        assert (parameters[name].default is inspect.Parameter.empty) == one.required
        assert f"        {name}: " in verb.__doc__
    assert "options: see" not in verb.__doc__


def test_positions() -> None:
    kinds = {
        verb.__name__: [
            p.name for p in inspect.signature(verb).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        for verb, _ in VERBS
    }
    assert kinds == {
        "prune": ["model", "output"],
        "pareto": ["model", "output"],
        "score": ["model"],
        "finetune": ["model", "data", "output"],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pattern": "2:4"}, "pattern is about single weights: use mode='weights'"),
        ({"layer_sparsity": {"*": 0.5}}, "layer_sparsity is about single weights"),
        ({"mode": "weights", "regularize": {"flops": 1.0}}, "regularize is about channels"),
        ({"mode": "weights", "round_to": 4}, "round_to is about channels: use mode='channels'"),
        ({"quantize": "int8", "custom_ops": ["x.so"]}, "quantize='int8' knows no libraries"),
        ({"finetune_last": 3}, "finetune_last goes with finetune"),
        ({"finetune_data": "x.npz"}, "finetune_data goes with finetune"),
        ({"memory": 0}, "memory 0: use more than 0"),
        ({"damping": -1.0}, "damping -1.0: use at least 0"),
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown: use one of foof, adamw, adam, sgd"),
    ],
)
def test_what_does_not_go_together(given, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruneOptions(**given)


def test_what_goes_together() -> None:
    PruneOptions(mode="weights", pattern="2:4", layer_sparsity={"*": 0.5}, correct=True)
    PruneOptions(correct=False, round_to=1, regularize={"flops": 1.0}, finetune=3, finetune_last=1)
    assert PruneOptions(seed=3, protect=["a"]).part(ModeOptions) == ModeOptions(seed=3, protect=["a"])


def test_a_cost_in_latency_is_timed() -> None:
    with pytest.raises(OptionError, match="cost='latency' has to be timed"):
        ParetoOptions(latency=False)
    assert ParetoOptions(latency=False, cost="macs").cost == "macs"


def test_choices_are_what_there_is() -> None:
    choices = {one.name: one.choices for one in options_of(PruneOptions)}
    assert choices["effort"] == tuple(EFFORTS)
    assert set(choices["optimizer"]) == set(OPTIMIZERS) == set(RATES)
    assert {one.name: one.choices for one in options_of(TrainingOptions)}["trainer"] is TRAINERS


def test_the_report_says_what_was_asked() -> None:
    given = {"calib": {"x": nets.data(0, 40, 12)}, "targets": {"macs": 0.5}, "threads": 1, "latency": False}
    report = prune(ir.from_proto(nets.mlp()), **given, effort="quick", dry_run=True).report
    wanted = {"calib": "<dict>", "targets": {"macs": 0.5}, "threads": 1, "latency": False}
    assert report.options == {**wanted, "effort": "quick", "dry_run": True}
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["options"] == report.options


def test_a_wrong_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="round_too"):
        prune("m.onnx", round_too=3)


@dataclass(frozen=True, kw_only=True)
class Wider(PruneOptions):
    throw_away: int = option(3, help="Of no use.", least=1)


@takes(Wider)
def wider(model: str, options: Wider) -> dict[str, object]:
    """Do nothing.

    Args:
        model: any.
        options: of it.
    """
    return asked(options)


def test_a_new_option_is_one_field() -> None:
    assert wider("m", "out.onnx", throw_away=5, seed=1) == {"output": "out.onnx", "seed": 1, "throw_away": 5}
    assert inspect.signature(wider).parameters["throw_away"].default == 3
    assert "        throw_away: Of no use. At least 1.\n" in wider.__doc__
    with pytest.raises(OptionError, match="throw_away 0: use at least 1"):
        wider("m", throw_away=0)


TYPED = """
from obs_onnx import finetune, pareto, prune, score
prune("m", "out.onnx", round_to=4, seed=1)
finetune("m", "data.npz", steps=3)
prune("m", round_too=4)
prune("m", seed="1")
pareto("m", mode="weights")
finetune("m", "data.npz")
score("m", "data.npz")
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_keywords(tmp_path) -> None:
    mypy = pytest.importorskip("mypy.api")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(TYPED)
    arguments = ["--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache"), str(snippet)]
    text, _, code = mypy.run(arguments)
    assert code == 1
    lines = {int(line.split(":")[1]) for line in text.splitlines() if ": error: " in line}
    assert lines == {5, 6, 7, 8, 9}
    assert '"round_too"' in text


def test_names_of_earlier_releases_work_with_a_note() -> None:
    with pytest.warns(DeprecationWarning, match="throw_out is now called throw_away") as caught:
        assert renamed("m", throw_out=5) == {"throw_away": 5}
    assert caught[0].filename == __file__
    with pytest.raises(OptionError, match="throw_out is the former name of throw_away"):
        renamed("m", throw_out=5, throw_away=4)


@dataclass(frozen=True, kw_only=True)
class Renamed(PruneOptions):
    throw_away: int = option(3, help="Of no use.", former=("throw_out",))


@takes(Renamed)
def renamed(model: str, options: Renamed) -> dict[str, object]:
    """Do nothing."""
    return asked(options)
