"""Costs from kept counts against what removal really leaves behind."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import counted, random_keep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass
from random_graphs import BUILDERS, build

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.costs.macs import MacCounter
from obs_onnx.passes.costs.model_costs import Costs
from obs_onnx.passes.graph.parameters import float_tensors

RNG = np.random.default_rng(0)


CHAIN = """g (float[N,3,6,6] x) => (float[N,4] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Conv <pads = [1, 1, 1, 1]> (a, w2)
    c = Add (a, b)
    d = Conv <group = 8> (c, w3)
    e = Conv (c, w4)
    f = Concat <axis = 1> (d, e)
    [head] h = Conv (f, w5)
    p = GlobalAveragePool (h)
    y = Flatten (p)
}"""


SHAPES = {
    "w1": (8, 3, 3, 3),
    "w2": (8, 8, 3, 3),
    "w3": (8, 1, 1, 1),
    "w4": (10, 8, 1, 1),
    "w5": (4, 18, 1, 1),
}


def macs(coupling: Coupling, keep: Keep) -> int:
    return MacCounter(coupling.model.graph)(coupling.shapes(keep))


def parameters(coupling: Coupling, keep: Keep) -> tuple[int, int]:
    """Elements of float initializers and bytes of all, by shapes alone."""
    held = [v for v in coupling.model.graph.initializers.values() if v.const_value is not None]
    shapes = coupling.shapes(keep, held)
    sizes = {v: int(np.prod(shapes.get(v, v.const_value.shape.numpy()))) for v in held}
    floats = sum(n for v, n in sizes.items() if v.const_value.dtype.is_floating_point())
    return floats, sum(n * v.const_value.dtype.itemsize for v, n in sizes.items())


@pytest.fixture
def chain(make_model) -> Coupling:
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return couple(prepare(make_model(CHAIN, weights)))


def test_a_chain_by_hand(chain: Coupling) -> None:
    costs = Costs(chain)
    inner, wide = (next(g.id for g in chain.groups if g.n == n) for n in (8, 10))
    k, m = 3, 7
    counts = {inner: k, wide: m}
    batch = 3  # of the concrete shapes
    assert costs.params.value(counts) == k * 27 + k * k * 9 + k + m * k + 4 * (k + m)
    assert costs.bytes.value(counts) == 4 * costs.params.value(counts)
    assert costs.macs.value(counts) == batch * 36 * costs.params.value(counts)
    assert costs.macs.value({}) == batch * 36 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert set(costs.macs.terms) == {((inner, 1),), ((inner, 2),), ((inner, 1), (wide, 1)), ((wide, 1),)}
    assert costs.macs.coupled(inner) == {inner, wide}
    assert not costs.approximate


def test_savings_are_differences(chain: Coupling) -> None:
    costs = Costs(chain)
    groups = [group.id for group in chain.groups]
    for quantity, group, counts in itertools.product(
        (costs.macs, costs.params, costs.bytes), groups, ({}, {groups[0]: 5}, dict.fromkeys(groups, 4))
    ):
        tried = np.arange(1, costs.full[group] + 1)
        saved = quantity.saving(counts, group, tried)
        expected = [quantity.value(counts) - quantity.value({**counts, group: int(n)}) for n in tried]
        np.testing.assert_allclose(saved, expected, atol=1e-6)
        assert float(quantity.saving(counts, group, 2)) == saved[1]


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
        min_size=1,
        max_size=10,
    ),
    st.integers(0, 2**16),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs(chosen: list[tuple[str, int, int]], seed: int) -> None:
    model = prepare(ir.from_proto(build(chosen)))
    RemoveUnusedNodesPass()(model)
    coupling = couple(model)
    costs, keep = Costs(coupling), random_keep(coupling, seed)
    counts = counted(keep)
    floats, stored = parameters(coupling, keep)
    assert costs.params.value(counts) == pytest.approx(floats, rel=1e-12)
    assert costs.bytes.value(counts) == pytest.approx(stored, rel=1e-12)
    if not costs.approximate:
        assert costs.macs.value(counts) == pytest.approx(macs(coupling, keep), rel=1e-12)
    if all(name != "local_response" for name, _, _ in chosen):  # removal writes it out with a matrix
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        added = sum(t.size for t in float_tensors(small)) - floats
        assert 0 <= added <= 8 * len(chosen)  # scalars that follow sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "vit"])
def test_real_models_are_exact(outside_data, name: str) -> None:
    coupling = couple(prepare(ir.load(outside_data / "models" / f"{name}.onnx")))
    costs = Costs(coupling)
    for seed in range(3):
        keep = random_keep(coupling, seed)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        assert costs.macs.value(counted(keep)) == macs(coupling, keep)
        assert costs.params.value(counted(keep)) == sum(t.size for t in float_tensors(small))
        stored = (v.const_value for v in small.graph.initializers.values())
        assert costs.bytes.value(counted(keep)) == sum(tensor.nbytes for tensor in stored)
