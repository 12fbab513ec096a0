"""What skl2onnx writes by default: networks alone and in pipelines, and models without layers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from exported import prune_and_compare, run, signature

import obs_onnx
from obs_onnx.cli import main
from obs_onnx.passes.errors import ModelError

skl2onnx: Any = pytest.importorskip("skl2onnx", reason="needs the package skl2onnx")
pytest.importorskip("sklearn", reason="needs the package scikit-learn")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier  # noqa: E402
from sklearn.feature_selection import SelectKBest  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    Binarizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVR  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 8)).astype(np.float32)
CLASSES = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int) + (X[:, 3] > 1)
NAMES = np.array(["no", "yes", "maybe"])[CLASSES]
TABLE = {
    "age": RNG.uniform(20, 60, (200, 1)).astype(np.float32),
    "income": RNG.uniform(0, 5, (200, 1)).astype(np.float32),
    "city": RNG.choice(["a", "b", "Köln"], (200, 1)),
    "job": RNG.choice(["x", "y"], (200, 1)),
}
NUMBERS, WORDS = ["age", "income"], ["city", "job"]


def classifier(**options: Any) -> MLPClassifier:
    return MLPClassifier(**{"hidden_layer_sizes": (32, 24), "max_iter": 20, "random_state": 0, **options})


def regressor(**options: Any) -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=(32, 24), max_iter=20, random_state=0, **options)


def exported(model: Any, path: Path, target: Any, table: bool = False, **options: Any) -> Path:
    """Fit a model to the matrix or to the table, and write it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if table:
            pandas = pytest.importorskip("pandas", reason="needs the package pandas")
            frame = pandas.DataFrame({name: column[:, 0] for name, column in TABLE.items()})
            proto = skl2onnx.to_onnx(model.fit(frame, target), frame[:1], **options)
        else:
            proto = skl2onnx.to_onnx(model.fit(X, target), X[:1], **options)
    onnx.save(proto, path)
    return path


ALONE = {
    "classes": (classifier(), CLASSES, {}),
    "names": (classifier(), NAMES, {}),
    "two classes": (classifier(activation="logistic"), CLASSES > 0, {}),
    "tensors": (classifier(), CLASSES, {"options": {"zipmap": False}}),
    "columns": (classifier(), CLASSES, {"options": {"zipmap": "columns"}}),
    "one number": (regressor(), X[:, 0] * X[:, 1], {}),
    "several numbers": (regressor(activation="tanh"), X[:, :3] ** 2, {}),
    "several labels": (classifier(), X[:, :2] > 0, {"options": {"zipmap": False}}),
}
BEFORE = [StandardScaler(), MinMaxScaler(), RobustScaler(), Normalizer(), Normalizer("l1"), SimpleImputer()]
BEFORE += [PCA(5), SelectKBest(k=5), Binarizer()]
MIXED = {
    "one-hot": (
        [("n", StandardScaler(), NUMBERS), ("w", OneHotEncoder(handle_unknown="ignore"), WORDS)],
        NAMES,
    ),
    "ordinal": (
        [("n", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS), ("w", OrdinalEncoder(), WORDS)],
        CLASSES,
    ),
    "passed": ([("n", "passthrough", NUMBERS), ("w", OneHotEncoder(), ["city"])], CLASSES),
}


@pytest.mark.parametrize("case", ALONE)
def test_networks(tmp_path: Path, case: str) -> None:
    model, target, options = ALONE[case]
    prune_and_compare(exported(model, tmp_path / "m.onnx", target, **options), {"X": X})


@pytest.mark.parametrize("step", BEFORE, ids=str)
def test_networks_behind_a_preprocessing(tmp_path: Path, step: Any) -> None:
    path = exported(make_pipeline(step, classifier()), tmp_path / "m.onnx", CLASSES)
    prune_and_compare(path, {"X": X})


@pytest.mark.parametrize("case", MIXED)
def test_columns_of_numbers_and_words(tmp_path: Path, case: str) -> None:
    columns, target = MIXED[case]
    model = make_pipeline(ColumnTransformer(columns), classifier())
    path = exported(model, tmp_path / "m.onnx", target, table=True)
    names = {name for name, _, _ in signature(path)}
    prune_and_compare(path, {name: column for name, column in TABLE.items() if name in names})


@pytest.mark.parametrize(
    ("model", "target", "kind"),
    [
        (RandomForestClassifier(3), CLASSES, "TreeEnsembleClassifier"),
        (GradientBoostingRegressor(n_estimators=3), X[:, 0], "TreeEnsembleRegressor"),
        (LogisticRegression(), CLASSES, "LinearClassifier, Normalizer"),
        (Ridge(), X[:, 0], "LinearRegressor"),
        (SVR(), X[:, 0], "SVMRegressor"),
        (make_pipeline(StandardScaler(), LogisticRegression()), CLASSES, "Scaler, LinearClassifier"),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{"targets": {"params": 0.5}}, {"mode": "weights"}], ids=str)
def test_models_without_layers(
    tmp_path: Path, model: Any, target: Any, kind: str, options: dict[str, Any]
) -> None:
    path = exported(model, tmp_path / "m.onnx", target)
    with pytest.raises(ModelError, match=rf"m\.onnx has no layers, so nothing .* made of {kind}"):
        obs_onnx.prune(path, calib={"X": X}, latency=False, **options)
    assert obs_onnx.inspect(path).layers == ()
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_command(tmp_path: Path) -> None:
    path = exported(make_pipeline(StandardScaler(), classifier()), tmp_path / "m.onnx", NAMES)
    np.savez(tmp_path / "c.npz", X=X, labels=CLASSES)
    arguments = ["--calib", str(tmp_path / "c.npz"), "--target", "params=0.6", "--effort", "quick", "-q"]
    result = CliRunner(catch_exceptions=False).invoke(main, ["prune", str(path), *arguments])
    assert result.exit_code == 0, result.output
    small = tmp_path / "m.pruned.onnx"
    assert signature(small) == signature(path)
    (labels, scores), (found, near) = run(path, {"X": X}), run(small, {"X": X})
    assert np.mean(labels == found) > 0.8
    assert np.linalg.norm(near - scores) < 0.2 * np.linalg.norm(scores)
    result = CliRunner(catch_exceptions=False).invoke(
        main, ["bench", str(path), str(small), "--seconds", "0.1"]
    )
    assert result.exit_code == 0, result.output
