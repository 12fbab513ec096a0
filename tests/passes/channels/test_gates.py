"""Gates: ones change nothing, zeros silence, and each example may have its own."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest
from channel_helpers import random_keep, run, shape_of
from nets import run_proto

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.gates import gate_groups, gate_places
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import GradientError

SUMMED = ["mlp", "residual", "mobile", "concatenated", "grouped"]  # nothing else is done over their channels


def gated(coupling: Coupling, per_example: bool = False) -> tuple[ir.Model, dict[int, str]]:
    model = coupling.model.clone()
    places = {f"gate{group.id}": (group.n, gate_places(coupling, group)) for group in coupling.groups}
    assert gate_groups(model, places, per_example)
    return model, {group.id: f"gate{group.id}" for group in coupling.groups}


@pytest.mark.parametrize("name", SUMMED)
def test_a_gate_of_zero_silences_and_one_of_one_does_nothing(name: str) -> None:
    proto = nets.NETS[name]()
    x = nets.data(0, 5, *shape_of(proto))
    coupling = couple(prepare(ir.from_proto(proto)))
    model, names = gated(coupling)
    for seed in range(2):
        keep = random_keep(coupling, seed)
        feeds = {names[group]: mask.astype(np.float32) for group, mask in keep.items()}
        found = run_proto(ir.to_proto(model), {"x": x, **feeds})["y"]
        expected = run(silence(coupling.model, keep, coupling), x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    ones = {names[group.id]: np.ones(group.n, np.float32) for group in coupling.groups}
    found = run_proto(ir.to_proto(model), {"x": x, **ones})["y"]
    np.testing.assert_allclose(found, run(coupling.model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUMMED)
def test_gates_of_each_example_are_ones(name: str) -> None:
    proto = nets.NETS[name]()
    x = nets.data(0, 5, *shape_of(proto))
    coupling = couple(prepare(ir.from_proto(proto)))
    model, names = gated(coupling, per_example=True)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for group in coupling.groups:
        gate = values[names[group.id]]
        assert gate.shape[1] == group.n
        model.graph.outputs.append(gate)
    found = run_proto(ir.to_proto(model), {"x": x})
    np.testing.assert_allclose(found.pop("y"), run(coupling.model, x), rtol=1e-5, atol=1e-5)
    for group in coupling.groups:
        np.testing.assert_array_equal(found[names[group.id]], np.ones((5, group.n)))


def test_places_are_in_front_of_activations_where_possible() -> None:
    coupling = couple(prepare(ir.from_proto(nets.residual())))
    model = coupling.model
    for group in coupling.groups:
        for place in gate_places(coupling, group):
            node = model.graph.node(place.node)
            assert not node.inputs[place.slot].is_initializer()
            assert (place.slot, place.axis) == (0, 1)
            assert sorted(place.channel) == list(range(group.n))


def test_examples_of_a_fixed_batch_have_no_gates_of_their_own() -> None:
    proto = nets.residual()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    coupling = couple(prepare(ir.from_proto(proto)))
    places = {f"gate{group.id}": (group.n, gate_places(coupling, group)) for group in coupling.groups}
    copy = coupling.model.clone()
    before = ir.to_proto(copy).SerializeToString(deterministic=True)
    assert not gate_groups(copy, places, per_example=True)
    assert ir.to_proto(copy).SerializeToString(deterministic=True) == before


def test_names_that_are_taken_and_nodes_that_are_not_there() -> None:
    coupling = couple(prepare(ir.from_proto(nets.mlp())))
    group = coupling.groups[0]
    places = gate_places(coupling, group)
    with pytest.raises(GradientError, match="h1 is taken"):
        gate_groups(coupling.model.clone(), {"h1": (group.n, places)})
    other = prepare(ir.from_proto(nets.residual()))
    with pytest.raises(GradientError, match=f"no node '{places[0].node}'"):
        gate_groups(other, {"gate": (group.n, places)})
