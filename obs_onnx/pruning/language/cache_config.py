"""Configurations of a language model beside its file: how many heads its caches have, and which tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from obs_onnx.io.paths import config_destination, configs_beside
from obs_onnx.pruning.language.fewer_tokens import TOKEN_ID, FewerTokens, read_config

__all__ = ["files_beside", "new_configs"]

_VOCABULARY = "vocab_size"
_HEADS, _SHARED, _WIDTHS = "num_attention_heads", "num_key_value_heads", ("head_size", "head_dim")


def files_beside(
    model: ir.Model,
    caches: Sequence[str],
    fewer: FewerTokens | None,
    path: Path | None,
    destination: Path,
) -> tuple[dict[Path, object], list[str]]:
    """What is written beside a model whose interface is another one, and what could not be said.

    Args:
        model: the smaller one, complete.
        caches: names of its inputs that are caches of keys and values, where they may have changed.
        fewer: tokens that stay, where some went.
        path: of the model that came in.
        destination: of the smaller one.

    Raises:
        DataError: a configuration is no JSON.
    """
    configs, told = new_configs(model, caches, path, destination) if caches else ({}, [])
    if fewer is None:
        return configs, told
    if not told:
        configs = _with_tokens(configs, fewer.tokens.places, path, destination)
    return {**fewer.files(destination), **configs}, told


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
        found[config_destination(config, destination, alone)] = _changed(read_config(config), sizes)
    return found, []


def _with_tokens(
    configs: Mapping[Path, object], places: Mapping[int, int], path: Path | None, destination: Path
) -> dict[Path, object]:
    """Configurations, of which some are changed already, with the number of tokens and the special ones."""
    found = dict(configs)
    for config in [] if path is None else configs_beside(path):
        where = config_destination(config, destination)
        found[where] = _renumbered(found[where] if where in found else read_config(config), places)
    return found


def _renumbered(given: object, places: Mapping[int, int]) -> object:
    if not isinstance(given, dict):
        return given
    changed = {name: _renumbered(value, places) for name, value in given.items()}
    for name, value in given.items():
        if name == _VOCABULARY and isinstance(value, int):
            changed[name] = len(places)
        elif name.endswith(TOKEN_ID) and isinstance(value, int | list):
            ids = value if isinstance(value, list) else [value]
            new = [places.get(one, one) for one in ids]
            changed[name] = new if isinstance(value, list) else new[0]
    return changed


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
