"""Every criterion is an entry that can be found and says what it needs; a new one is a file and an entry."""

from __future__ import annotations

from pkgutil import resolve_name

import nets
import numpy as np
import pytest
from channel_helpers import opened

from obs_onnx import prune, score
from obs_onnx.criteria.channels import CRITERIA, Criterion
from obs_onnx.criteria.channels.registry import DEFAULT
from obs_onnx.criteria.score_curves import worth
from obs_onnx.passes.errors import GradientError, OptionError

FIRST = '''
"""Channels are worth what their number is: the first one goes first."""

import numpy as np


def by_number(evidence, group):
    return np.arange(1.0, group.n + 1)
'''


@pytest.fixture(scope="module")
def hard(make_proto):
    """Channels of a model whose last operator has no derivative."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (7, 6), "b1": (6,), "w2": (6, 4), "b2": (4,)}
    proto = make_proto(
        "g (float[N,7] x) => (float[N,4] y)"
        "{ a = Gemm(x, w1, b1) h = Relu(a) z = Gemm(h, w2, b2) y = Hardmax(z) }",
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
    )
    return proto, nets.data(0, 20, 7)


@pytest.mark.parametrize("name", CRITERIA)
def test_what_an_entry_names_is_there(name):
    assert callable(resolve_name(CRITERIA[name].place))


@pytest.mark.parametrize("name", CRITERIA)
def test_what_needs_gradients_says_so(hard, name):
    proto, x = hard
    _, coupling, _, evidence = opened(proto, x)
    (group,) = coupling.groups
    if CRITERIA[name].gradients:
        with pytest.raises(GradientError, match="Hardmax"):
            CRITERIA[name](evidence, group)
    else:
        assert CRITERIA[name](evidence, group).shape == (6,)


def test_one_chooses_by_default_and_one_is_the_truth():
    assert DEFAULT == "obs"
    assert [name for name, one in CRITERIA.items() if one.cumulative] == ["obs"]
    assert [name for name, one in CRITERIA.items() if one.exhaustive] == ["oracle"]


def test_the_worth_of_cumulative_scores_is_what_each_one_adds():
    scores = np.array([5.0, 1.0, 3.0])
    np.testing.assert_array_equal(worth("obs", scores), [2, 1, 2])
    np.testing.assert_array_equal(worth("taylor", scores), scores)


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_new_criterion_is_a_file_and_an_entry(tmp_path, monkeypatch, cumulative):
    (tmp_path / "first.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match="criterion 'first'"):
        prune(nets.mlp(), calib=nets.data(0, 60, 12), criterion="first")
    monkeypatch.setitem(CRITERIA, "first", Criterion("first:by_number", cumulative=cumulative))
    dense, x = nets.mlp(), nets.data(0, 200, 12)
    options = {"targets": {"macs": 0.5}, "effort": "quick", "latency": False, "compensate": False}
    for allocation in ("damage", "first"):
        result = prune(dense, calib=x, criterion="first", allocation=allocation, **options)
        assert result.report.met
        before, gone = {held.name: held for held in dense.graph.initializer}, 0
        for name in ("fc1.bias", "fc2.bias"):
            left = result.model.graph.initializers[name].const_value.numpy()
            stored = np.frombuffer(before[name].raw_data, np.float32)
            gone += len(stored) - len(left)
            np.testing.assert_array_equal(left, stored[-len(left) :])
        assert gone > 0
    scored = score(dense, calib=x, criterion="first", oracle=True)
    assert [group.raw.tolist() for group in scored.groups] == [list(range(1, n + 1)) for n in (32, 24)]
