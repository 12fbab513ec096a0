"""Memory of activations by simulation: at every node, whatever is there and will be read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from read_by(inner)
            yield from (value.name for value in graph.output)


def simulated_peak(proto: onnx.ModelProto, sizes: Mapping[str, int]) -> int:
    """Bytes; ``sizes`` are those of the values."""
    weights = {tensor.name for tensor in proto.graph.initializer} | {""}
    inputs = [value.name for value in proto.graph.input if value.name not in weights]
    outputs = {value.name for value in proto.graph.output}
    nodes = list(proto.graph.node)
    behind = {name: name for name in inputs}  # the value whose memory a value lies in
    present, peak = set(inputs), 0
    for number, node in enumerate(nodes):
        if not any(name in behind for name in read_by(node)) and node.input:
            weights.update(node.output)
            continue
        for name in node.output:
            view = node.op_type in VIEWS and node.domain == "" and node.input[0] in behind
            behind[name] = behind[node.input[0]] if view else name
            present.add(behind[name])
        peak = max(peak, sum(sizes.get(name, 0) for name in present))
        later = outputs | {name for after in nodes[number + 1 :] for name in read_by(after)}
        present &= {behind[name] for name in later if name in behind}
    return peak
