"""Profiles of devices: small TOML files, those beside this module or the user's own.

A key that is not there is not known, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from obs_onnx.allocation.amounts import Unit, share_or_bytes
from obs_onnx.passes.errors import OptionError, boundary, named
from obs_onnx.passes.graph.node_facts import dims
from obs_onnx.passes.traits.op import key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Profile", "profiles", "read_profile"]

_HERE = Path(__file__).parent
_FLOAT_BYTES = 4  # of the numbers that targets are counted in
_NAMED = 3  # nodes in a warning
_FOLDED = {"Constant", "Identity", "Dropout"}  # which every converter takes out


@dataclass(frozen=True)
class Profile:
    """What is known of a device.

    Attributes:
        title: for people.
        sources: addresses of the pages that say so.
        step: multiple of channels that its kernels work on.
        quantize: kind of integers that it takes as ONNX.
        activation_bytes, weight_bytes: of a number there.
        ram, size: bytes for activations and for weights there, with a unit or as a number.
        operators: all that run, with their names in ONNX.
        missing: operators that do not run, where the others are not listed.
        static: sizes of inputs must be fixed.
        notes: for people.
    """

    title: str
    sources: Sequence[str] = ()
    step: int | None = None
    quantize: str | None = None
    activation_bytes: int | None = None
    weight_bytes: int | None = None
    ram: str | int | None = None
    size: str | int | None = None
    operators: Sequence[str] = ()
    missing: Sequence[str] = ()
    static: bool = False
    notes: Sequence[str] = ()

    def targets(self) -> dict[str, str]:
        """Limits on a float32 model that keep the budgets on the device, where numbers take fewer bytes."""
        found = {}
        for name, budget, width in (
            ("ram", self.ram, self.activation_bytes),
            ("size", self.size, self.weight_bytes),
        ):
            if budget is not None:
                amount = share_or_bytes(name, str(budget))
                if amount.unit is not Unit.BYTES:
                    raise OptionError(f"{name} of {self.title} is {budget}: give bytes, for example 512KB")
                found[name] = f"{round(amount.value * _FLOAT_BYTES / (width or _FLOAT_BYTES))}B"
        return found

    def warnings(self, model: ir.Model, original: ir.Model) -> list[str]:
        """What of a model does not run there, as far as the sources say.

        Args:
            model: in canonical form.
            original: as it came in, with the inputs that users see.
        """
        found, where = [], defaultdict[str, list[str]](list)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            name = key(node)
            unlisted = bool(self.operators) and name not in self.operators
            if name not in _FOLDED and (unlisted or name in self.missing):
                where[name].append(str(node.name))
        for name, nodes in sorted(where.items()):
            more = f" and {len(nodes) - _NAMED} others" if len(nodes) > _NAMED else ""
            found.append(
                f"{self.title} does not list {name} among its operators: {', '.join(nodes[:_NAMED])}{more}"
            )
        free = [
            str(value.name)
            for value in original.graph.inputs
            if not all(isinstance(dim, int) for dim in dims(value) or ())
        ]
        if self.static and free:
            found.append(f"{self.title} needs fixed sizes: fix those of {', '.join(free)} before compiling")
        return found


def profiles() -> list[str]:
    """Names of those that come with the program."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def read_profile(name: str | os.PathLike[str]) -> Profile:
    """The profile of a name, or of the user's own file.

    Raises:
        OptionError: there is none, or it holds something else.
    """
    given = os.fspath(name)
    own = given.endswith(".toml") or os.sep in given
    if not own and given not in profiles():
        raise OptionError(
            f"{named('device')} {given!r} is unknown: use one of {', '.join(profiles())}, or a .toml file"
        )
    path = Path(given) if own else _HERE / f"{given}.toml"
    with boundary(f"{path} cannot be read", OptionError):
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    return _checked(found, str(path))


def _checked(found: Mapping[str, object], where: str) -> Profile:
    """A profile whose values have the types they should have."""
    known = {one.name: str(one.type) for one in dataclasses.fields(Profile)}
    if unknown := [name for name in found if name not in known]:
        raise OptionError(f"{where} has {unknown[0]!r}: a profile may have {', '.join(known)}")
    if not isinstance(found.get("title"), str):
        raise OptionError(f"{where} has no title: write for example title = 'our camera'")
    for name, value in found.items():
        if not _fits(value, known[name]):
            raise OptionError(f"{where} has {name} = {value!r}: {_WANTED[known[name]]}")
    made = Profile(**found)  # type: ignore[arg-type]
    made.targets()
    return made


_WANTED = {
    "str": "give a text",
    "Sequence[str]": "give a list of texts",
    "int | None": "give a whole number above 0",
    "str | None": "give a text",
    "str | int | None": "give bytes, for example '512KB'",
    "bool": "give true or false",
}
"""Type of a field -> what to give for it."""


def _fits(value: object, kind: str) -> bool:
    """Whether a value of TOML is of the type of a field."""
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "Sequence[str]":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return (whole and "int" in kind) or (isinstance(value, str) and "str" in kind)
