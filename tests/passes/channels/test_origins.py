"""Where channels come from and where they are added up."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
from channel_helpers import named

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Site, couple
from obs_onnx.passes.channels.origins import Origins


def opened(net: str) -> tuple[Coupling, Origins]:
    coupling = couple(prepare(ir.from_proto(nets.NETS[net]())))
    return coupling, Origins(coupling)


def test_a_hidden_layer() -> None:
    coupling, origins = opened("mlp")
    group = named(coupling, "fc1.weight[0]")
    (reading,) = origins.readings(group)
    assert (reading.site, reading.values) == (Site("fc2.weight", 1), ("h1",))
    assert origins.produced(group) == [Site("fc1.weight", 0)]
    assert origins.own(group) == [Site("fc1.weight", 0), Site("fc1.bias", 0)]
    assert origins.even(group)
    assert origins.alike(group)
    assert not origins.additive(group)


def test_what_normalises_channels_together_has_no_readings() -> None:
    coupling, origins = opened("transformer")
    normed = {group.n for group in coupling.groups if origins.readings(group) is None}
    assert normed
    assert all(origins.readings(group) for group in coupling.groups if group.n not in normed)


def test_a_number_that_a_channel_is_everywhere() -> None:
    coupling, origins = opened("mlp")
    group = named(coupling, "fc1.weight[0]")
    array = np.random.default_rng(0).standard_normal((5, group.n))
    array[:, 3], array[:, 4] = 2.5, 0.0
    found = origins.number(group, "h1", array)
    assert (found[3], found[4]) == (2.5, 0.0)
    assert np.isnan(np.delete(found, [3, 4])).all()


def test_what_does_not_depend_on_the_input() -> None:
    coupling, origins = opened("mlp")
    group = named(coupling, "fc1.weight[0]")
    idle = np.arange(group.n) < 4

    def is_zero(name: str) -> np.ndarray:
        raise AssertionError(name)

    found = origins.fixed(group, {"fc1.weight": idle}, {}, is_zero)
    assert found.keys() >= {"h1"}
    assert all((mask == idle).all() for mask in found.values())
    assert not any(mask.any() for mask in origins.fixed(group, {}, {}, is_zero).values())
