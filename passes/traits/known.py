"""What the rules of an operator were written for, and whether a node is no more than that.

A rule reads the attributes and inputs that it knows. A newer version of the operator may have others, or mean
something else by the same ones: then the rule would be wrong in silence, so it must not be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import onnx
import onnx_ir as ir

from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.shapes.schemas import schema_of

__all__ = ["Known"]


@dataclass(frozen=True)
class Known:
    """The versions of an operator that somebody looked at when its rules were written.

    Attributes:
        last: version of the newest one, the opset that brought it; older ones are known as well. None: the
            operator has no versions, as those that runtimes hide in the default domain.
        attributes: names that the rules read, or leave out with reason.
        inputs, outputs: how many there may be; None: any number.
    """

    last: int | None
    attributes: frozenset[str]
    inputs: int | None
    outputs: int | None

    def exceeded(self, node: ir.Node) -> str | None:
        """Why ``node`` is more than that, or None. An attribute with its default value counts as absent."""
        opset = node_facts.version(node)
        if self.last is not None and opset is not None:
            version = _version(node.domain, node.op_type, opset)
            if version is None:
                return f"its version of opset {opset} is not known"
            if version > self.last:
                return f"its version {version} is not known, only those up to {self.last}"
        for name, attribute in node.attributes.items():
            if name not in self.attributes and not _is_default(node, attribute, opset):
                return f"its attribute {name!r} is not known"
        for what, values, most in (
            ("input", node.inputs, self.inputs),
            ("output", node.outputs, self.outputs),
        ):
            beyond = () if most is None else values[most:]
            if any(value is not None and value.name != "" for value in beyond):
                return f"its {what} {most} is not known"
        return None


@lru_cache(maxsize=4096)
def _version(domain: str, op_type: str, opset: int) -> int | None:
    """The version that holds in ``opset``; of a domain that ONNX does not know, the opset itself."""
    if domain not in _DOMAINS:
        return opset
    schema = schema_of(domain, op_type, opset)
    return None if schema is None else int(schema.since_version)


_DOMAINS = {schema.domain: None for schema in onnx.defs.get_all_schemas()}


def _is_default(node: ir.Node, attribute: ir.Attr, opset: int | None) -> bool:
    schema = None if opset is None else schema_of(node.domain, node.op_type, opset)
    found = None if schema is None else schema.attributes.get(attribute.name)
    if found is None or not found.default_value.name or attribute.is_ref():
        return False
    return bool(ir.serde.deserialize_attribute(found.default_value).value == attribute.value)
