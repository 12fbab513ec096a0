"""Every engine is an entry that can be found; a new one is a file and an entry."""

from __future__ import annotations

import sys
from pkgutil import resolve_name

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from repository import ROOT

from obs_onnx import prune
from obs_onnx.passes.autodiff.optimizers import OPTIMIZERS
from obs_onnx.passes.errors import OptionError
from obs_onnx.training.engines.registry import DEFAULT, TRAINERS, Trainer
from obs_onnx.training.options import TrainingOptions
from obs_onnx.training.settings import Settings, choose_optimizer

SLEEPY = '''
"""The engine of graphs, which keeps count of its steps and takes them at a tenth of the rate."""

from obs_onnx.training.engines.graph import GraphEngine

OPENED = []


class SleepyEngine(GraphEngine):
    def __init__(self, runtime, task, done, state):
        super().__init__(runtime, task, done, state)
        self.rates = []
        OPENED.append(self)

    def step(self, feed, rate):
        self.rates.append(rate / 10)
        return super().step(feed, rate / 10)
'''


@pytest.mark.parametrize("name", TRAINERS)
def test_what_an_entry_names_is_there(name):
    trainer = TRAINERS[name]
    assert callable(resolve_name(trainer.place))
    assert trainer.optimizer in OPTIMIZERS
    assert not trainer.extra or f"\n{trainer.extra} = [" in (ROOT / "pyproject.toml").read_text()


def test_the_optimizer_that_is_best_with_an_engine():
    assert [choose_optimizer(None, name) for name in TRAINERS] == ["foof", "adamw"]
    assert choose_optimizer("sgd", "ort-training") == "sgd"
    assert Settings(1).trainer == DEFAULT == "graph"
    with pytest.raises(OptionError, match="trainer 'torch' is unknown: use graph or ort-training"):
        TrainingOptions(trainer="torch")


@pytest.mark.parametrize(
    ("optimizer", "momentum"), [("sgd", 0.5), ("foof", 0.5), ("adam", None), ("adamw", None)]
)
def test_momentum_is_for_optimizers_that_have_one(optimizer, momentum):
    rule = Settings(1, optimizer=optimizer, momentum=0.5).rule()
    assert type(rule) is OPTIMIZERS[optimizer]
    assert getattr(rule, "momentum", None) == momentum


def test_a_new_engine_is_a_file_and_an_entry(tmp_path, monkeypatch):
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRAINERS, "sleepy", Trainer("sleepy:SleepyEngine", "sgd"))
    with pytest.raises(OptionError, match="use one of graph, ort-training, sleepy"):
        TrainingOptions(trainer="torch")
    dense, x = nets.mlp(), nets.data(0, 200, 12)
    options = {"calib": x, "targets": {"macs": 0.5}, "effort": "quick", "latency": False}
    result = prune(dense, finetune=10, lr=0.1, trainer="sleepy", **options)
    engine = max(sys.modules["sleepy"].OPENED, key=lambda one: len(one.rates))
    assert len(engine.rates) == 10
    assert max(engine.rates) == pytest.approx(0.01)
    assert result.report.met
    trained = engine.weights()
    assert any(
        np.array_equal(held.const_value.numpy(), trained[name])
        for name, held in result.model.graph.initializers.items()
        if name in trained
    )
    onnx.checker.check_model(ir.to_proto(result.model))
