"""The documentation names the operators without a derivative, all of them and no other."""

from __future__ import annotations

import re

from repository import DOCS

from obs_onnx.passes.ops import TABLE

METHODS = DOCS / "methods.md"


def test_operators_without_a_derivative_are_listed():
    section = METHODS.read_text().split("**Without a derivative**")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([A-Z]\w*)`", section))
    missing = {name.split("::")[-1] for name, op in TABLE.items() if op.vjp is None and name != "Constant"}
    assert listed == missing
