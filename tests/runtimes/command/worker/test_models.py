"""Options of the sessions that a worker opens."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.command.worker.models import session_options


def test_options_reach_the_session():
    levels = onnxruntime.GraphOptimizationLevel
    plain = session_options(onnxruntime, 3, {})
    assert (plain.intra_op_num_threads, plain.inter_op_num_threads) == (3, 1)
    assert plain.graph_optimization_level == levels.ORT_ENABLE_ALL
    assert (plain.enable_cpu_mem_arena, plain.enable_mem_pattern) == (True, True)
    for level, name in (("off", "DISABLE_ALL"), ("basic", "ENABLE_BASIC"), ("extended", "ENABLE_EXTENDED")):
        found = session_options(onnxruntime, 1, {"optimize": level})
        assert found.graph_optimization_level == getattr(levels, f"ORT_{name}")
    off = session_options(onnxruntime, 1, {"arena": "off", "pattern": "off", "spinning": "off"})
    assert (off.enable_cpu_mem_arena, off.enable_mem_pattern) == (False, False)
    assert off.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_optimisations_that_are_off_stay_off():
    nodes = [helper.make_node("Identity", ["x"], ["h"]), helper.make_node("Identity", ["h"], ["y"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.STRING, ["N"])], [value("y", TensorProto.STRING, ["N"])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    x = np.array(["a", "b"], object)
    for spec in ("onnxruntime", "onnxruntime,optimize=off"):
        session = open_runtime(spec, threads=1).session(model.SerializeToString())
        assert session.run({"x": x})["y"].tolist() == ["a", "b"]
        assert len(session.time({"x": x}, 2)) == 2
