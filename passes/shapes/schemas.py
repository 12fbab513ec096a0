"""ONNX's own descriptions of operators, for the opset that a model uses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, cast

import onnx

__all__ = ["functional", "schema_of"]


class _Functional(Protocol):
    """What the types of ``onnx`` leave out of its ``OpSchema``: the functions that stand for an operator.

    Attributes:
        function_opset_versions: opsets that one function for all cases was written for.
        context_dependent_function_opset_versions: opsets of functions that depend on attributes and types.
    """

    function_opset_versions: Sequence[int]
    context_dependent_function_opset_versions: Sequence[int]

    def get_function_with_opset_version(self, version: int, /) -> bytes:
        """The function as a serialized message."""

    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: Sequence[bytes], /
    ) -> bytes:
        """The same for a serialized node and the types of its inputs."""


def functional(schema: onnx.defs.OpSchema | None) -> _Functional | None:
    """``schema`` with what it says about functions."""
    return cast("_Functional | None", schema)


@lru_cache(maxsize=4096)
def schema_of(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema of an operator that holds in ``opset``; None where the installed ``onnx`` has none.

    Runtimes take some operators of the default domain in opsets that do not have them yet, and write them
    when they fuse others (LayerNormalization, from opset 17 on, in a model of opset 12). Such an operator is
    the one that the first opset with that name brought.
    """
    if not domain and opset > onnx.defs.onnx_opset_version():
        return None
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        first = _first_versions().get((domain, op_type), 0)
        return onnx.defs.get_schema(op_type, first, domain) if first > opset else None


@lru_cache(maxsize=1)
def _first_versions() -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        name = schema.domain, schema.name
        found[name] = min(schema.since_version, found.get(name, schema.since_version))
    return found
