"""Configurations of a language model beside its file, which say how many heads its caches have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from obs_onnx.io.paths import config_destination, configs_beside
from obs_onnx.passes.errors import DataError, boundary

__all__ = ["new_configs"]

_HEADS, _SHARED, _WIDTHS = "num_attention_heads", "num_key_value_heads", ("head_size", "head_dim")


def new_configs(
    model: ir.Model, caches: Sequence[str], path: Path | None, destination: Path, alone: bool = True
) -> tuple[dict[Path, object], list[str]]:
    """New configurations by the file to write, and what they could not say.

    Args:
        model: the smaller one, complete.
        caches: names of its inputs that are caches of keys and values.
        path: of the model that came in.
        destination: of the smaller one.
        alone: no other model lies beside it that would want a configuration of the same name.

    Raises:
        DataError: a configuration is no JSON.
    """
    there = [] if path is None else configs_beside(path)
    if not there:
        return {}, []
    sizes = _sizes(model, frozenset(caches))
    if isinstance(sizes, str):
        names = ", ".join(config.name for config in there)
        return {}, [f"{names} was not written anew: {sizes}"]
    found: dict[Path, object] = {}
    for config in there:
        with boundary(f"{config} cannot be read", DataError):
            given = json.loads(config.read_text(encoding="utf-8"))
            found[config_destination(config, destination, alone)] = _changed(given, sizes)
    return found, []


def _sizes(model: ir.Model, caches: frozenset[str]) -> Mapping[str, int] | str:
    """What a configuration says of heads; or why it cannot say it."""
    shapes = [value.shape for value in model.graph.inputs if value.name in caches]
    shared = {shape[-3] for shape in shapes if shape is not None}
    widths = {shape[-1] for shape in shapes if shape is not None}
    nodes = [
        node
        for node in model.graph
        if any(value is not None and value.name in caches for value in node.inputs)
    ]
    given = {
        node.attributes.get_int("num_heads", 0) or node.attributes.get_int("q_num_heads", 0) for node in nodes
    }
    if len(shared) > 1 or len(given) > 1 or len(widths) > 1:
        return "heads differ from layer to layer, and it has one number for all of them"
    (key_heads,), (width,), heads = shared, widths, given.pop() if given else 0
    if not isinstance(key_heads, int) or not heads:
        return "no attribute says how many heads of queries there are"
    known = dict.fromkeys(_WIDTHS, width) if isinstance(width, int) else {}  # a name stays what it was
    return {_HEADS: heads, _SHARED: key_heads, **known}


def _changed(given: object, sizes: Mapping[str, int]) -> object:
    """The same with the sizes wherever they stand.

    Without a width of heads, transformers would divide by their number: it is said as soon as they are.
    """
    if not isinstance(given, dict):
        return given
    changed = {
        name: sizes[name] if name in sizes and isinstance(value, int) else _changed(value, sizes)
        for name, value in given.items()
    }
    if _HEADS in given and not set(_WIDTHS) & set(given):
        dense = given.get("hidden_size", 0) // max(given[_HEADS], 1)
        changed["head_dim"] = sizes.get("head_dim", dense)
    if _HEADS in given and _SHARED not in given and sizes[_SHARED] != sizes[_HEADS]:
        changed[_SHARED] = sizes[_SHARED]
    return changed
