"""ONNX's own descriptions of operators, for the opset that a model uses."""

from __future__ import annotations

from functools import lru_cache

import onnx

__all__ = ["schema_of"]


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
