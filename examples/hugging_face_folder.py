"""A folder as optimum writes it: each ONNX file pruned, everything else carried over, the configuration kept.

pip install 'obs-onnx[cpu,text]'
optimum-cli export onnx --model distilbert-base-uncased-finetuned-sst-2-english distilbert/
python examples/hugging_face_folder.py distilbert/ distilbert-small/ --calib texts.txt
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import obs_onnx


def prune_folder(source: Path, target: Path, calib: Any, **options: Any) -> dict[str, obs_onnx.Pruned]:
    """Prune the models of a folder into a new one.

    ``config.json`` stays as it is, because it names sizes of the dense model that other programs look for:
    what was pruned stands beside it in ``obs_onnx.json``.

    Args:
        source: with ``config.json``, tokenizer files and ``*.onnx``, also in folders inside.
        target: must not be there.
        calib: data, see docs/data.md.
        options: of obs_onnx.prune.
    """
    models = sorted(source.rglob("*.onnx"))
    skipped = {f"{path.name}{ending}" for path in models for ending in ("", "_data", ".data")}
    shutil.copytree(source, target, ignore=lambda _, names: skipped.intersection(names))
    found = {}
    for model in models:
        place = model.relative_to(source)
        found[place.as_posix()] = obs_onnx.prune(model, target / place, calib=calib, **options)
    record = {
        name: {
            "parameters": one.report.after.parameters,
            "of": one.report.before.parameters,
            "met": one.report.met,
        }
        for name, one in found.items()
    }
    (target / "obs_onnx.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--params", type=float, default=0.7)
    given = parser.parse_args()
    tokenizer = given.source / "tokenizer.json"
    extra = {"tokenizer": str(tokenizer)} if tokenizer.is_file() else {}
    results = prune_folder(given.source, given.target, given.calib, targets={"params": given.params}, **extra)
    for path, one in results.items():
        print(path, one.summary())
