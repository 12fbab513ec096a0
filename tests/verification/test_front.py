"""Where models are measured."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from decided_nets import HEADS, decided, detector, plugin

from obs_onnx.passes.errors import ModelError, OptionError
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.front import Front, find_front

RUNTIME = open_runtime("onnxruntime", 1)
HALF = {
    "half": np.array(0.5, np.float32),
    "tenth": np.array(0.1, np.float32),
    "no": np.array(0.0, np.float32),
}


def front_of(proto: onnx.ModelProto, *at: str) -> Front:
    return find_front(RUNTIME, ir.from_proto(proto), at)


def measured(proto: onnx.ModelProto, *at: str) -> list[str]:
    return [str(value.name) for value in front_of(proto, *at).model.graph.outputs]


@pytest.mark.parametrize(
    ("nodes", "outputs", "names"),
    [
        ("m = Conv(br, wb)  y = ArgMax <axis = 1> (m)", "int64[N,1,4,4] y", ["m"]),
        ("m = Conv(br, wb)  i = ArgMax <axis = 1> (m)  y = Cast <to = 2> (i)", "uint8[N,1,4,4] y", ["m"]),
        ("m = Conv(br, wb)  i = ArgMax <axis = 1> (m)  y = Cast <to = 1> (i)", "float[N,1,4,4] y", ["m"]),
        ("m = Conv(br, wb)  y = Greater(m, half)", "bool[N,4,4,4] y", ["m"]),
        ("m = Conv(br, wb)  r = Round(m)  y = Cast <to = 2> (r)", "uint8[N,4,4,4] y", ["m"]),
        ("m = Conv(br, wb)  r = Reshape(m, two_d)  y, i = TopK <axis = 1> (r, one)", "float[N,1] y", ["m"]),
        ("l = Conv(br, wb)  i = ArgMax <axis = 1> (l)", "float[N,4,4,4] l, int64[N,1,4,4] i", ["l"]),
        ("l = Conv(br, wb)  y = Identity(l)  p = Softmax <axis = 1> (l)  i = ArgMax <axis = 1> (p)",
         "float[N,4,4,4] y, int64[N,1,4,4] i", ["y"]),
        # pointwise decisions change no place of a number
        ("m = Conv(br, wb)  g = Greater(m, no)  t = Mul(m, tenth)  y = Where(g, m, t)",
         "float[N,4,4,4] y", ["y"]),
        ("m = Conv(br, wb)  y = Floor(m)", "float[N,4,4,4] y", ["y"]),
        # weights behind: nothing in front says what they do
        ("g = Greater(br, no)  t = Mul(br, tenth)  u = Where(g, br, t)  y = Conv(u, wb)",
         "float[N,4,4,4] y", ["y"]),
        ("i = ArgMax <axis = 1> (br)  f = Cast <to = 1> (i)  u = Add(br, f)  y = Conv(u, wb)",
         "float[N,4,4,4] y", ["y"]),
        # what is decided from the inputs alone is the same in every model
        ("m = Conv(br, wb)  k = ReduceMax(x)  i = ArgMax <axis = 0> (k)  s = Squeeze(i)  y = Gather(m, s)",
         "float[4,4,4] y", ["y"]),
    ],
)  # fmt: skip
def test_models_that_end_in_a_decision_are_measured_in_front_of_it(nodes, outputs, names) -> None:
    more = {**HALF, "two_d": np.array([0, -1])}
    assert measured(decided(nodes, outputs, "N", **more)) == names


def test_boxes_and_scores_in_front_of_a_non_max_suppression() -> None:
    found = front_of(detector())
    assert found.cut is not None
    assert found.cut.places == ("bs", "scores_")
    assert "NonMaxSuppression" in found.notes[0]
    assert all(name in found.notes[0] for name in ("bs", "scores_", "boxes", "labels"))
    assert front_of(detector(nms=False)).cut is None


def test_rows_chosen_by_a_comparison() -> None:
    nodes = """g = Greater(scores_, half)  n = NonZero(g)
               r = Slice(n, two, three, zero)  i = Squeeze(r, zero)
               y = Gather <axis = 1> (boxes_, i)"""
    assert measured(decided(HEADS + nodes, "float[1,k,4] y", **HALF)) == ["bs", "scores_"]


@pytest.mark.parametrize("domain", ["TRT", "com.acme", ""])
def test_a_plugin_is_cut_off(domain: str) -> None:
    found = front_of(plugin(domain))
    assert not found.runs
    assert found.foreign == (f"node nms ({domain + '::' if domain else ''}EfficientNMS_TRT)",)
    assert measured(plugin(domain)) == ["bs", "scores_"]
    assert "not run" in found.notes[1]


def test_a_plugin_in_the_middle_keeps_what_follows() -> None:
    proto = decided("u = Relu(br)  y = Conv(u, wb)", "float[N,4,4,4] y", "N")
    proto.graph.node[4].op_type, proto.graph.node[4].domain = "Deform", "com.acme"
    proto.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    found = front_of(proto)
    assert found.cut is not None
    assert found.cut.places == ("br",)
    assert found.cut.layers == ("n5",)
    assert "n5" in found.notes[2]


def test_a_function_of_the_model_is_no_plugin() -> None:
    proto = decided("m = Conv(br, wb)  y = Softsign(m)", "float[N,4,4,4] y", "N")
    proto.graph.node[-1].op_type, proto.graph.node[-1].domain = "Mine", "com.acme"
    body = [onnx.helper.make_node("Softsign", ["a"], ["b"])]
    opsets = [onnx.helper.make_opsetid("", 18)]
    proto.functions.append(onnx.helper.make_function("com.acme", "Mine", ["a"], ["b"], body, opsets))
    proto.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    assert front_of(proto).cut is None


def test_users_name_other_places() -> None:
    assert measured(detector(), "br") == ["br"]
    assert measured(detector(), "bm") == ["bm", "scores_"]
    assert measured(detector(), "boxes") == ["boxes", "scores", "labels"]
    assert measured(detector(nms=False), "br") == ["br"]


def test_places_that_cannot_be(make_proto) -> None:
    with pytest.raises(OptionError, match=r"cut 'scores': .* is it 'scores_'"):
        front_of(detector(nms=False), "scores")
    with pytest.raises(OptionError, match="behind another place"):
        front_of(detector(nms=False), "br", "bm")
    with pytest.raises(OptionError, match="behind node nms"):
        front_of(plugin(), "found")
    with pytest.raises(ModelError, match="a model has no value 'bs'"):
        front_of(detector()).part(ir.from_proto(decided("y = Relu(br)", "float[1,16,4,4] y")), "a model")


@pytest.mark.parametrize("behind", ["Conv(g, wb)", "Relu(g)"])
def test_rows_that_are_chosen_in_front_of_weights_are_told(behind: str) -> None:
    """As the queries of a detector with two stages are, by the TopK of their scores."""
    nodes = f"""p = ReduceMean <keepdims = 0> (br, places)  v, i = TopK <axis = 1> (p, four)
                s = Squeeze(i, zero)  g = Gather <axis = 1> (br, s)  y = {behind}"""
    held = {"places": np.array([2, 3]), "four": np.array([16])}
    found = front_of(decided(nodes, "float[1,4,4,4] y" if "wb" in behind else "float[1,16,4,4] y", **held))
    told = [note for note in found.notes if "in front of further weights" in note]
    if "wb" in behind:
        assert found.cut is None
        assert len(told) == 1
        assert told[0].startswith("node n5 (TopK) chooses rows")
    else:
        assert found.cut is not None
        assert told == []
