"""A ``tokenizer.json`` (Hugging Face) with fewer tokens.

What splits text into tokens must do so as before wherever all tokens of the text stay. WordPiece takes the
longest piece, Unigram the best row of pieces: those that went were not taken. BPE joins pairs of pieces: each
piece that stays needs all pairs that make it, so these stay as well; pairs that make others were not joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["fewer_tokens", "needed_tokens", "unknown_token"]

File = Mapping[str, Any]  # JSON as it was read

_TYPES = ("BPE", "Unigram", "WordLevel", "WordPiece")


def needed_tokens(file: File, kept: Iterable[int]) -> set[int]:
    """``kept``, and ids that the tokenizer cannot do without.

    These are special tokens, those that it puts around a text, the unknown token and single bytes; of BPE
    the pieces that others are made of, and single characters where nothing stands for an unknown one.
    """
    found, model, pieces = set(kept), file["model"], _pieces(file)
    found |= {int(one["id"]) for one in file.get("added_tokens") or () if one.get("special")}
    found |= {one for one in _around(file.get("post_processor")) if isinstance(one, int)}
    if file.get("padding"):
        found.add(int(file["padding"]["pad_id"]))
    if (unknown := unknown_token(file)) is not None:
        found.add(unknown)
    bytes_ = {i for piece, i in pieces.items() if len(piece) == 6 and piece.startswith("<0x")}
    found |= bytes_ if model.get("byte_fallback") else set()
    if model.get("type") != "BPE":
        return found
    if unknown is None and not model.get("byte_fallback"):
        ends = model.get("end_of_word_suffix") or "", model.get("continuing_subword_prefix") or ""
        found |= {i for piece, i in pieces.items() if len(_bare(piece, *ends)) == 1}
    made: dict[str, list[tuple[str, str]]] = {}
    for first, second in _pairs(file):
        made.setdefault(_joined(file, first, second), []).append((first, second))
    names = {i: piece for piece, i in pieces.items()}
    waiting = [names[i] for i in found if i in names]
    while waiting:
        for part in (part for pair in made.get(waiting.pop(), ()) for part in pair):
            if pieces[part] not in found:
                found.add(pieces[part])
                waiting.append(part)
    return found


def unknown_token(file: File) -> int | None:
    """The id that stands for what no other one stands for."""
    model = file["model"]
    if model.get("type") == "Unigram":
        found: int | None = model.get("unk_id")
        return found
    unknown = model.get("unk_token")
    return None if unknown is None else _pieces(file).get(unknown)


def fewer_tokens(file: File, places: Mapping[int, int]) -> dict[str, Any] | str:
    """The file with the ids of ``places`` alone, as the numbers that these say; or why that cannot be.

    Args:
        file: JSON as it was read.
        places: new ids by the old ones, in which nothing of :func:`needed_tokens` lacks.
    """
    model = file["model"]
    kind = model.get("type")
    if kind not in _TYPES:
        return f"a tokenizer of type {kind} is not known"
    changed, left = dict(model), {i for i in _pieces(file).values() if i in places}
    if kind == "Unigram":
        if sorted(places[i] for i in left) != list(range(len(left))):
            return "its pieces are not the first tokens"
        changed["vocab"] = [model["vocab"][i] for i in sorted(left, key=places.__getitem__)]
        if model.get("unk_id") is not None:
            changed["unk_id"] = places[model["unk_id"]]
    else:
        changed["vocab"] = {piece: places[i] for piece, i in model["vocab"].items() if i in places}
    if kind == "BPE":
        there = changed["vocab"]
        changed["merges"] = [
            given
            for given, pair in zip(model["merges"], _pairs(file), strict=True)
            if {*pair, _joined(file, *pair)} <= there.keys()
        ]
    added = [
        {**one, "id": places[one["id"]]} for one in file.get("added_tokens") or () if one["id"] in places
    ]
    result = {**file, "model": changed, "added_tokens": added}
    if file.get("post_processor"):
        result["post_processor"] = _renumbered(file["post_processor"], places)
    if file.get("padding"):
        result["padding"] = {**file["padding"], "pad_id": places[file["padding"]["pad_id"]]}
    return result


def _pieces(file: File) -> dict[str, int]:
    """Ids by piece, without added tokens that are none of the model."""
    vocab = file["model"].get("vocab") or {}
    if isinstance(vocab, Mapping):
        return dict(vocab)
    return {str(piece): i for i, (piece, *_) in enumerate(vocab)}


def _pairs(file: File) -> list[tuple[str, str]]:
    given = file["model"].get("merges") or ()
    pairs = [one.split(" ", 1) if isinstance(one, str) else one for one in given]
    return [(first, second) for first, second in pairs]


def _joined(file: File, first: str, second: str) -> str:
    return first + second.removeprefix(file["model"].get("continuing_subword_prefix") or "")


def _bare(piece: str, suffix: str, prefix: str) -> str:
    return piece.removeprefix(prefix).removesuffix(suffix) or piece


def _around(processor: Any) -> list[Any]:
    """Ids that a post-processor adds."""
    found: list[Any] = []
    for name, value in (processor or {}).items():
        if name == "processors":
            found += [i for one in value for i in _around(one)]
        elif name == "special_tokens":
            found += [i for one in value.values() for i in one["ids"]]
        elif name in ("sep", "cls"):
            found.append(value[1])
    return found


def _renumbered(processor: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, Any]:
    changed = dict(processor)
    if "processors" in changed:
        changed["processors"] = [_renumbered(one, places) for one in changed["processors"]]
    if "special_tokens" in changed:
        changed["special_tokens"] = {
            name: {**one, "ids": [places[i] for i in one["ids"]]}
            for name, one in changed["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if name in changed:
            changed[name] = [changed[name][0], places[changed[name][1]]]
    return changed
