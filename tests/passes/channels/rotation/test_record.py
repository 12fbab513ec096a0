"""Rotated groups in keep.json: another model of the architecture is rotated and cut likewise."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import model, node
from channel_helpers import tensors_of
from decoders import decoder
from nets import transformer
from onnx import numpy_helper
from rotations import matrix, stream

import obs_onnx
from obs_onnx.passes.canonical.own_constants import ShareConstants, prepare
from obs_onnx.passes.canonical.plainer.written_form import WriteForms
from obs_onnx.passes.channels.branches import LeaveOut, find_branches
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.rotation.record import record
from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.rotate import blocks, rotated_arrays
from obs_onnx.passes.channels.rotation.scan import Rotatable, Stays
from obs_onnx.passes.errors import DataError
from obs_onnx.passes.graph.set_weights import SetWeights
from obs_onnx.passes.layers.find_layers import find_layers

Matrices = dict[tuple[int, ...], np.ndarray]


def rotated(coupling: Coupling, single: bool = True) -> list[tuple[Rotatable, Matrices]]:
    """All groups that can be rotated, with random matrices."""
    found = []
    for group in coupling.groups:
        with suppress(Stays):
            one = rotatable(coupling, group)
            each = {b: matrix(group.n, one.keeps_ones, k) for k, b in enumerate(blocks(coupling, one))}
            kind = np.float32 if single else np.float64
            found.append((one, {b: m.astype(kind).astype(float) for b, m in each.items()}))
    return found


def half(coupling: Coupling) -> Keep:
    """Every third channel goes."""
    return {group.id: np.arange(group.n) % 3 != 1 for group in coupling.groups}


def cut(proto: onnx.ModelProto, protect: tuple[str, ...] = ()) -> tuple[dict[str, Any], ir.Model]:
    """A keep.json of the rotated model, and that model without the channels."""
    original = ir.from_proto(proto)
    coupling = couple(prepare(original), protect)
    each = rotated(coupling)
    assert each
    keep, records = half(coupling), [record(coupling, *one) for one in each]
    file = json.loads(json.dumps(keep_file(original, coupling, keep, rotated=records)))
    small = SetWeights(rotated_arrays(coupling, each))(coupling.model.clone()).model
    RemoveChannels(keep, coupling.of(small)).call(small)
    WriteForms().call(small)
    ShareConstants().call(small)
    return file, small


def trained(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same architecture with other weights."""
    other, rng = onnx.ModelProto(), np.random.default_rng(5)
    other.CopyFrom(proto)
    for tensor in other.graph.initializer:
        held = numpy_helper.to_array(tensor)
        if held.dtype.kind == "f" and held.size > 2:
            more = rng.uniform(0.8, 1.2, held.shape).astype(held.dtype)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(held * more), tensor.name))
    return other


def norm() -> onnx.ModelProto:
    return stream(node("LayerNormalization", "h s t", "z", axis=-1))


def bottlenecks() -> onnx.ModelProto:
    """Two blocks whose projections, each with a batch normalization, are added up, and a head.

    The canonical form has other weights and biases than the file.
    """
    rng = np.random.default_rng(2)
    shapes = {"a": (6, 3, 1, 1), "b": (12, 6, 1, 1), "d": (12, 1, 3, 3), "c": (6, 12, 1, 1), "t": (4, 6)}
    held = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    nodes = [node("Conv", "x a", "s"), node("BatchNormalization", "s as ab am av", "p")]
    nodes += [
        node("Conv", "p b", "q"),
        node("Relu", "q", "r"),
        node("Conv", "r d", "u", group=12, pads=[1, 1, 1, 1]),
    ]
    nodes += [
        node("Relu", "u", "v"),
        node("Conv", "v c", "w"),
        node("BatchNormalization", "w cs cb cm cv", "z"),
    ]
    nodes += [node("Add", "p z", "m"), node("GlobalAveragePool", "m", "g"), node("Flatten", "g", "f")]
    nodes += [node("Gemm", "f t", "y", transB=1)]
    for one in "ac":
        held |= {f"{one}{k}": rng.uniform(0.5, 1.5, 6) for k in "sbmv"}
    arrays = {name: np.asarray(array, np.float32) for name, array in held.items()}
    return model(nodes, arrays, x=("N", 3, 6, 6), y=("N", 4), opset=17)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "norm": norm,
    "transformer": transformer,
    "as many heads as widths": lambda: transformer(heads=4, width=16),
    "bottlenecks": bottlenecks,
    "decoder": lambda: decoder("packed", cache=False),
    "decoder with layers apart": lambda: decoder("standard", cache=False),
}


@pytest.mark.parametrize("net", NETS)
def test_replayed_as_cut(net: str) -> None:
    """The very weights of the model that was rotated and cut, and a trained one is cut and compared."""
    proto = NETS[net]()
    file, expected = cut(proto)
    found, wanted = tensors_of(replay(ir.from_proto(proto), file)), tensors_of(expected)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    again = obs_onnx.replay(trained(proto), keep=file)
    assert "without removal the rotated model differs by" in again.notes[0]
    assert {k: a.shape for k, a in tensors_of(again.model).items()} == {k: a.shape for k, a in wanted.items()}


def test_branches_that_are_gone_are_left_out() -> None:
    proto = bottlenecks()
    original = ir.from_proto(proto)
    coupling = couple(prepare(original))
    each = rotated(coupling)
    (branch,) = find_branches(coupling, find_layers(coupling.model)[0]).items()
    group, layers = branch[0], set(branch[1].layers)
    keep = {**half(coupling), group: np.arange(coupling.groups[group].n) == 0}
    small = SetWeights(rotated_arrays(coupling, each))(coupling.model.clone()).model
    RemoveChannels(keep, coupling.of(small)).call(small)
    LeaveOut(layers)(small)
    gone = [name for name in coupling.model.graph.initializers if name not in small.graph.initializers]
    records = [record(coupling, *one) for one in each]
    file = json.loads(json.dumps(keep_file(original, coupling, keep, gone, records)))
    assert set(file["removed"]) >= layers
    found = tensors_of(replay(original, file))
    for name, array in tensors_of(small).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_channels_that_were_protected_are_no_other_ones() -> None:
    """Where heads were protected all of them have one matrix."""
    proto = transformer()
    protected, _ = cut(proto, ("q.weight",))
    free, _ = cut(proto)
    assert {len(one["places"]) for one in protected["rotated"]} < {
        len(one["places"]) for one in free["rotated"]
    }
    obs_onnx.replay(proto, keep=protected)


def test_double_precision_is_kept() -> None:
    proto = stream(node("LayerNormalization", "h s t", "z", axis=-1))
    coupling = couple(prepare(ir.from_proto(proto)))
    for single, dtype, size in ((True, "float32", 4), (False, "float64", 8)):
        (one,) = rotated(coupling, single)
        written = record(coupling, *one)
        assert written["dtype"] == dtype
        assert len(written["matrices"]) == -(-size * 36 // 3) * 4


def changed(**what: object) -> dict[str, Any]:
    """The keep.json of the norm with something else in its first rotated group."""
    file, _ = cut(norm())
    file["rotated"][0] |= what
    return file


def encoded(matrices: np.ndarray) -> dict[str, object]:
    return {"matrices": b64encode(matrices.astype("<f4").tobytes()).decode(), "shape": [*matrices.shape]}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"initializer": "other"}, r"other\[1\] cannot be rotated in this model"),
        ({"axis": 0}, r"w\[0\] cannot be rotated in this model"),
        ({"axis": "1"}, "is not what prune writes"),
        ({"places": [[[1, 0, 2, 3, 4]]]}, "stand in it otherwise"),
        ({"places": [[["a"]]]}, "is not what prune writes"),
        ({"dtype": "float16"}, "not of the size 1 x 6 x 6"),
        ({"shape": [1, 10**9, 10**9]}, "not of the size 1 x 6 x 6"),
        ({"matrices": "AAAA"}, "not of the size 1 x 6 x 6"),
        ({"matrices": "*" * 192}, "are damaged"),
        ({"matrices": "é" * 192}, "are damaged"),
        (encoded(2 * np.eye(6)[None]), "not orthogonal"),
        (encoded(np.full((1, 6, 6), np.nan)), "not orthogonal"),
        (encoded(np.eye(6)[None] - 2 / 6), "not orthogonal|vector of ones"),
    ],
)
def test_damaged_matrices_are_refused_in_one_line(what: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        obs_onnx.replay(norm(), keep=changed(**what))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entries", [["v[0]"], [3], [None], [{}], "v[0]", {"initializer": "w"}, 3])
def test_what_is_no_record_is_refused(entries: object) -> None:
    file, _ = cut(norm())
    with pytest.raises(DataError, match=r"is no keep\.json|is not what prune writes"):
        obs_onnx.replay(norm(), keep={**file, "rotated": entries})


def test_a_model_of_another_form_is_refused() -> None:
    """Channels that an activation reads one by one, and a scale of zero, keep their axes."""
    file, _ = cut(norm())
    other = stream(node("Relu", "h", "z"))
    with pytest.raises(DataError, match=r"cannot be rotated in this model: .*Relu"):
        obs_onnx.replay(other, keep={**file, "tensors": {}})
    zero = norm()
    (scale,) = (one for one in zero.graph.initializer if one.name == "s")
    scale.CopyFrom(numpy_helper.from_array(np.zeros(6, np.float32), "s"))
    with pytest.raises(DataError, match="scale s is zero"):
        obs_onnx.replay(zero, keep=file)
