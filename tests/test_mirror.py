"""Tests lie where the code lies: one file of tests for each module, and none without a module."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
from repository import ROOT

TESTED_ELSEWHERE = {
    "passes/layers/layer.py": "records without behaviour",
    "passes/ops/*.py": (
        "a line for each operator, tested for all families at once: linear in passes/layers, relate in "
        "passes/channels/test_remove_channels.py, macs in passes/costs, lipschitz in passes/traits"
    ),
    "passes/channels/rotation/scan.py": "records of rotatable.py, and tests there",
    "obs_onnx/results/inspection.py": "records without behaviour",
    "obs_onnx/runtimes/base.py": "a protocol",
    "obs_onnx/training/engines/base.py": "a protocol",
    "obs_onnx/training/engines/ort_artifacts.py": (
        "files for onnxruntime-training, which entrypoints/test_artifacts.py and "
        "training/engines/test_ort_training.py train with"
    ),
    "obs_onnx/*/options.py": "lists of options, tested as one in entrypoints/options/test_prune.py",
    "obs_onnx/*/*/options.py": "likewise",
    "obs_onnx/entrypoints/options/*.py": "likewise",
    "obs_onnx/torch/*.py": "whole modules in exporters/test_slices.py, where torch is",
    "obs_onnx/pruning/*": (
        "parts of a run that make sense together only: whole runs in pruning/channels/test_plan.py and "
        "test_round.py, entrypoints/test_prune.py and test_pareto.py"
    ),
}
"""Module (or pattern) without a file of tests -> why, and where it is tested."""

WITHOUT_MODULE = {
    "test_docs.py": "documents",
    "test_docs_run.py": "code in the documents",
    "test_examples.py": "the scripts of examples/",
    "test_faces.py": "the faces of the packages",
    "test_lazy_imports.py": "imports that hide in functions",
    "test_mirror.py": "this one",
    "test_models.py": "the models that are shipped",
    "test_damaged.py": "damaged models, data and command lines",
    "test_odd_models.py": "whole runs on models that are odd but right",
    "test_saved_models.py": "whole runs on models that other tools have saved",
    "cli/test_files.py": "what all commands read and write",
    "cli/test_folder.py": "commands over a folder, and runs that are killed",
    "test_rooms.py": "sizes and faces of all rooms",
    "test_touch_counts.py": "what additions touch",
    "passes/canonical/test_operator_suite.py": "forms of the operator tests of onnx",
    "exporters/test_*.py": "models as other packages write them",
    "passes/channels/test_operator_suite.py": "removal on the operator tests of onnx",
    "passes/channels/test_quantized_graphs.py": "removal on random networks in integers",
    "passes/test_zoo.py": "models that others made",
    "passes/ops/test_*.py": "the tables of all operators",
    "passes/ops/vjp/test_documented.py": "the list of operators without a derivative in the documents",
    "passes/ops/vjp/test_operator_suite.py": "the derivatives of all operators",
    "runtimes/command/test_worker.py": "the files of the worker together",
    "pruning/channels/test_cut.py": "whole runs on models that end in a decision",
    "pruning/channels/test_large.py": "whole runs on models that are not loaded at once",
    "pruning/channels/test_quantized.py": "whole runs on models in integers",
    "pruning/channels/test_ram.py": "whole runs with a target ram",
    "pruning/test_integers.py": "whole runs on models whose weights are stored as integers",
    "pruning/test_stopped.py": "whole runs that are stopped and gone on with",
    "pruning/channels/test_zoo.py": "whole runs on models that others made",
}
"""Test file (or pattern) that belongs to no module -> what it tests."""


def expected() -> dict[str, Path]:
    """Module -> its file of tests."""
    found = {}
    for folder, tests in (("obs_onnx", "tests"), ("passes", "tests/passes")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT / folder)
            if not path.name.startswith("__"):
                found[f"{folder}/{place.as_posix()}"] = ROOT / tests / place.with_name(f"test_{path.name}")
    return found


def excused(name: str, exceptions: dict[str, str]) -> list[str]:
    """The patterns that a name matches; those of one folder do not reach into the folders in it."""
    return [
        p for p in exceptions if fnmatch(name, p) and (p.count("/") == name.count("/") or p.endswith("/*"))
    ]


@pytest.mark.parametrize("module", expected())
def test_a_module_has_its_file_of_tests(module: str) -> None:
    tests = expected()[module]
    there = f"write {tests.relative_to(ROOT)}, or say in TESTED_ELSEWHERE where {module} is tested"
    assert tests.is_file() or excused(module, TESTED_ELSEWHERE), there


def test_a_file_of_tests_has_its_module() -> None:
    mirrored = set(expected().values())
    others = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if path not in mirrored]
    names = [path.relative_to(ROOT / "tests").as_posix() for path in others]
    assert [name for name in names if not excused(name, WITHOUT_MODULE)] == []


@pytest.mark.parametrize("exception", TESTED_ELSEWHERE)
def test_an_exception_is_needed(exception: str) -> None:
    missing = [module for module, tests in expected().items() if not tests.is_file()]
    assert any(exception in excused(module, {exception: ""}) for module in missing)


@pytest.mark.parametrize("exception", WITHOUT_MODULE)
def test_a_test_that_is_excused_is_there(exception: str) -> None:
    assert list((ROOT / "tests").glob(exception))
