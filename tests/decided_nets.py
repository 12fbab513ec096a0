"""Small models that end in a decision: detectors, segmentation, a plugin; with the body that they share."""

from __future__ import annotations

import numpy as np
import onnx
from nets import build_model

BODY = """
    a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1, b1)  ar = Relu(a)
    b = Conv <pads = [1,1,1,1]> (ar, w2, b2)  br = Relu(b)
"""
HEADS = """
    bm = Conv(br, wb)  bf = Reshape(bm, to_boxes)  bs = Sigmoid(bf)  boxes_ = Transpose <perm = [0,2,1]> (bs)
    sm = Conv(br, ws)  sf = Reshape(sm, to_scores)  scores_ = Sigmoid(sf)
"""
NMS = """
    chosen = NonMaxSuppression(boxes_, scores_, most, iou, least)
    bi = Slice(chosen, two, three, one)  bj = Squeeze(bi, one)
    ci = Slice(chosen, one, two, one)  labels = Squeeze(ci, one)
    flat = Squeeze(boxes_, zero)  boxes = Gather(flat, bj)
    st = Transpose <perm = [0,2,1]> (scores_)  ss = Squeeze(st, zero)
    bu = Unsqueeze(bj, one)  cu = Unsqueeze(labels, one)  at = Concat <axis = 1> (bu, cu)
    scores = GatherND(ss, at)
"""


def weights(channels: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (channels, 3, 3, 3),
        "b1": (channels,),
        "w2": (channels, channels, 3, 3),
        "b2": (channels,),
        "wb": (4, channels, 1, 1),
        "ws": (3, channels, 1, 1),
    }
    arrays = {name: rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5 for name, s in shapes.items()}
    constants = {"zero": [0], "one": [1], "two": [2], "three": [3], "most": [9]}
    return {
        **{name: array.astype(np.float32) for name, array in arrays.items()},
        **{name: np.array(value, np.int64) for name, value in constants.items()},
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.6], np.float32),
        "to_boxes": np.array([1, 4, -1], np.int64),
        "to_scores": np.array([1, 3, -1], np.int64),
    }


def decided(nodes: str, outputs: str, batch: int | str = 1, **more: object) -> onnx.ModelProto:
    """A model of images 8 x 8; ``nodes`` follow the body."""
    text = f"g (float[{batch},3,8,8] x) => ({outputs}) {{ {BODY} {nodes} }}"
    proto = build_model(text, {**weights(), **more})
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    return proto


def detector(nms: bool = True) -> onnx.ModelProto:
    """Boxes and scores, or which of them a NonMaxSuppression chooses."""
    if nms:
        return decided(HEADS + NMS, "float[k,4] boxes, float[k] scores, int64[k] labels")
    return decided(HEADS, "float[1,16,4] boxes_, float[1,3,16] scores_")


def plugin(domain: str = "TRT") -> onnx.ModelProto:
    """A detector that ends in an operator of another runtime."""
    proto = decided(HEADS, "float[1,16,4] boxes_, float[1,3,16] scores_")
    node = onnx.helper.make_node(
        "EfficientNMS_TRT",
        ["boxes_", "scores_"],
        ["num", "found"],
        "nms",
        domain=domain,
        score_threshold=0.25,
    )
    proto.graph.node.append(node)
    del proto.graph.output[:]
    make = onnx.helper.make_tensor_value_info
    proto.graph.output.append(make("num", onnx.TensorProto.INT32, [1, 1]))
    proto.graph.output.append(make("found", onnx.TensorProto.FLOAT, [1, 9, 4]))
    if domain:
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return proto


def images(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.2, 2, (samples, 1, 1, 1))
    return (rng.standard_normal((samples, 3, 8, 8)) * sizes).astype(np.float32)
