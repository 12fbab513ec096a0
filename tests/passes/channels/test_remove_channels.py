"""Removal equals silence: on random graphs, on hand-made ones, numerically and for other batch sizes."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from channel_helpers import random_keep, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import BUILDERS, SIZE, build

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence

EXAMPLES = int(os.environ.get("OBS_ONNX_EXAMPLES", "60"))  # random graphs; hundreds find rare cases

ort.set_default_logger_severity(4)


def removed_equals_silenced(proto: onnx.ModelProto, seed: int, canonical: bool = True) -> Coupling:
    model = prepare(ir.from_proto(proto), canonical)
    coupling = couple(model)
    keep = random_keep(coupling, seed)
    reference, small = silence(model, keep), model.clone()
    RemoveChannels(keep).call(small)
    onnx.checker.check_model(ir.to_proto(small), full_check=True)
    for batch in (1, 4):
        x = np.random.default_rng(seed).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        expected, got = run(reference, x), run(small, x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(
            got, expected, rtol=2e-4, atol=2e-4 * max(1.0, float(np.abs(expected).max()))
        )
    again = replay(ir.from_proto(proto), keep_file(ir.from_proto(proto), coupling, keep)["tensors"])
    before, after = ({v.name: v.shape for n in m.graph for v in n.outputs} for m in (small, again))
    assert all(after[name] == shape for name, shape in before.items() if name in after)
    return coupling


steps = st.lists(
    st.tuples(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2), st.integers(0, 2**16)),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps, st.integers(0, 2**16), st.sampled_from([18, 21, 23]), st.booleans())
def test_random_graphs(chosen: list[tuple[str, int, int]], seed: int, opset: int, canonical: bool) -> None:
    removed_equals_silenced(build(chosen, opset), seed, canonical)


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("seed", range(3))
def test_each_operator(name: str, seed: int) -> None:
    before = {2: ["global_pool"], 3: ["tokens"], 4: []}
    for lead in before.values():
        chosen = [(one, 0, 1) for one in lead] + [(name, 0, seed), (name, 0, seed + 10)]
        removed_equals_silenced(build(chosen, (18, 21, 23)[seed]), seed)
