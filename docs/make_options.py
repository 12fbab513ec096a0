"""Writes options.md: every option, from the same lists that make keywords and flags.

python docs/make_options.py
"""

from __future__ import annotations

from pathlib import Path

from obs_onnx.entrypoints.options.artifacts import ArtifactsOptions
from obs_onnx.entrypoints.options.bench import BenchOptions
from obs_onnx.entrypoints.options.evaluate import EvaluateOptions
from obs_onnx.entrypoints.options.finetune import FinetuneOptions
from obs_onnx.entrypoints.options.gradient import GradientOptions
from obs_onnx.entrypoints.options.inspect import InspectOptions
from obs_onnx.entrypoints.options.pareto import ParetoOptions
from obs_onnx.entrypoints.options.prune import PruneOptions
from obs_onnx.entrypoints.options.quantize import QuantizeOptions
from obs_onnx.entrypoints.options.replay import ReplayOptions
from obs_onnx.entrypoints.options.score import ScoreOptions
from obs_onnx.option import Option, described, former_names, options_of

_SHOWN = (bool, int, float, str, tuple)
PAGE = Path(__file__).with_name("options.md")
VERBS = {
    "prune": PruneOptions,
    "inspect": InspectOptions,
    "bench": BenchOptions,
    "evaluate": EvaluateOptions,
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
flags of the command line; they have the same name in Python, on the command line (with dashes, and in the
singular where a flag may be repeated) and in the `options` of the JSON. On the command line
`obs-onnx prune IN OUT` is the same as `-o OUT`, and further flags say what is shown and written:
`--json PATH`, `--report PATH.html` (of `prune`), `--plot PATH` (of `score`), `--summary` (of `prune`,
`pareto`, `finetune`) for one line, `-q` for nothing but errors, and `-v` for warnings, what every kind of
work took, and the traceback of an error.

Python writes nothing unless `output` is given; the command line has a default.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_verb(name, group) for name, group in VERBS.items())])


def _verb(name: str, group: type) -> str:
    listed = options_of(group)
    arguments = {"replay": "KEEP MODEL", "bench": "MODEL ..."}.get(name, "MODEL")
    command = "eval" if name == "evaluate" else name
    former = ", ".join(f"`{old}` is now `{new}`" for old, new in former_names(group).items())
    lines = [f"## {name}\n", f"`obs_onnx.{name}(model, ...)`, `obs-onnx {command} {arguments} ...`\n"]
    if former:
        lines.append(f"Names of earlier releases still work, with a note: {former}.\n")
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
