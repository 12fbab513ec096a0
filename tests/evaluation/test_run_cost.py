"""What a run takes, from the shapes that its values really have."""

from __future__ import annotations

import nets
import numpy as np
import onnx_ir as ir
import pytest

from obs_onnx.evaluation.run_cost import MOST_SAMPLES, RunCost, measured
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.costs.memory import Peak
from obs_onnx.runtimes import open_runtime

RUNTIME = open_runtime("onnxruntime", 1)


@pytest.mark.parametrize("name", sorted(nets.NETS))
@pytest.mark.parametrize("batch", [1, 3])
def test_multiply_accumulates_and_bytes_of_every_family(name: str, batch: int) -> None:
    proto = nets.NETS[name]()
    model = canonicalize(ir.from_proto(proto))
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    cost = measured(RUNTIME, model, {"x": nets.data(0, batch, *shape)})
    canonical = ir.to_proto(model)
    shapes = nets.shapes_of(canonical, batch)
    values = ["x", *(output for node in canonical.graph.node for output in node.output)]
    assert cost.sizes == {value: 4 * int(np.prod(shapes[value])) for value in values}
    assert cost.macs == batch * nets.macs(canonical)


def test_sizes_that_only_a_run_knows(make_model) -> None:
    """The length comes from the data: of eight rows those that are not zero."""
    text = """g (float[8,3] x, float[8] keep) => (float[A,2] y) {
        b = Cast <to = 9> (keep)  s = Compress <axis = 0> (x, b)  y = MatMul(s, w)
    }"""
    model = canonicalize(make_model(text, {"w": np.ones((3, 2), np.float32)}))
    keep = np.array([1, 0, 1, 1, 0, 1, 1, 0], np.float32)
    cost = measured(RUNTIME, model, {"x": np.ones((8, 3), np.float32), "keep": keep})
    assert cost.macs == 5 * 3 * 2
    assert (cost.sizes["s"], cost.sizes["y"]) == (5 * 3 * 4, 5 * 2 * 4)
    assert cost.peak.bytes == 8 * 3 * 4 + 8 + 5 * 3 * 4
    assert cost.peak.node == next(node.name for node in model.graph if node.op_type == "Compress")


class TestSamplesOfARun:
    @pytest.mark.parametrize(
        ("sizes", "memory", "samples"),
        [
            ((1000, 2000), 1 << 30, MOST_SAMPLES),
            ((1 << 20, 1 << 20), 1 << 30, 16),  # arrays of 16 MB
            ((1 << 20,) * 8, 1 << 26, 2),  # a quarter of 64 MB
            ((1 << 20,) * 8, 1000, 1),
            ((1 << 28,), 1 << 34, 1),
            ((), 1000, MOST_SAMPLES),
        ],
    )
    def test_arrays_stay_small_and_all_of_them_in_a_quarter_of_the_memory(
        self, sizes: tuple[int, ...], memory: int, samples: int
    ) -> None:
        assert RunCost(0, Peak(0, None), {}, sizes).samples(memory) == samples

    def test_what_follows_from_weights_does_not_count(self, make_model) -> None:
        text = "g (float[N,4] x) => (float[N,4] y) { u = Transpose(w) v = Flatten(x) y = MatMul(v, u) }"
        model = make_model(text, {"w": np.ones((4, 4), np.float32)})
        cost = measured(RUNTIME, model, {"x": np.ones((1, 4), np.float32)})
        assert sorted(cost.activations) == [16, 16]
