"""Writes options.md: every option, from the same lists that make keywords and flags.

python docs/make_options.py
"""

from __future__ import annotations

from pathlib import Path

from obs_onnx.entrypoints.options.artifacts import ArtifactsOptions
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.entrypoints.options.gradient import GradientOptions
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.entrypoints.options.quantize import QuantizeOptions
from obs_onnx.entrypoints.options.replay import ReplayOptions
from obs_onnx.entrypoints.options.score import ScoreOptions
from obs_onnx.option import Option, described, options_of

_SHOWN = (bool, int, float, str, tuple)
PAGE = Path(__file__).with_name("options.md")
VERBS = {
    "prune": PruneOptions,
    "pareto": ParetoOptions,
    "score": ScoreOptions,
    "finetune": FinetuneOptions,
    "gradient": GradientOptions,
    "artifacts": ArtifactsOptions,
    "quantize": QuantizeOptions,
    "replay": ReplayOptions,
}
HEAD = """# Options

Written by `python docs/make_options.py` from the dataclasses that make the keywords of `obs_onnx` and the
flags of the command line. On the command line further flags say what is shown and written: `--json PATH`,
`--report PATH.html` (of `prune`), `--plot PATH` (of `score`) and `-q`; `-v` shows warnings, and the traceback
of an error.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_verb(name, group) for name, group in VERBS.items())])


def _verb(name: str, group: type) -> str:
    listed = options_of(group)
    arguments = "KEEP MODEL" if name == "replay" else "MODEL"
    lines = [f"## {name}\n", f"`obs_onnx.{name}(model, ...)`, `obs-onnx {name} {arguments} ...`\n"]
    for title in dict.fromkeys(one.title for one in listed):
        lines += [f"### {title}\n", "| keyword | flag | type | default | |", "|---|---|---|---|---|"]
        lines += [_row(one) for one in listed if one.title == title] + [""]
    return "\n".join(lines)


def _row(one: Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in one.flags)
    default = "required" if one.required else f"`{one.default!r}`" if isinstance(one.default, _SHOWN) else ""
    cells = (f"`{one.name}`", flags, one.type, default, described(one))
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
