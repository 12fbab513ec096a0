"""Operators that nothing is known across: those with graphs of their own, those that draw random numbers, and
those that classical machine learning puts before and behind a network.
"""

from __future__ import annotations

from obs_onnx.passes.ops.vjp.control import RULES
from obs_onnx.passes.traits.atoms import fixed
from obs_onnx.passes.traits.lipschitz import independent, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, nothing, related
from obs_onnx.passes.traits.relation import Relation

__all__ = ["TABLE"]

_NONE = Op(lipschitz=pointwise(None))
_SOURCE = Op(lipschitz=independent, random=True)

_RANDOM = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike"

_LEARNT = """
    ai.onnx.ml::ArrayFeatureExtractor ai.onnx.ml::FeatureVectorizer ai.onnx.ml::Imputer
    ai.onnx.ml::LinearRegressor ai.onnx.ml::Normalizer ai.onnx.ml::Scaler
"""
_DECIDING = """
    ai.onnx.ml::Binarizer ai.onnx.ml::CategoryMapper ai.onnx.ml::LabelEncoder ai.onnx.ml::LinearClassifier
    ai.onnx.ml::OneHotEncoder ai.onnx.ml::SVMClassifier ai.onnx.ml::SVMRegressor
    ai.onnx.ml::TreeEnsembleClassifier ai.onnx.ml::TreeEnsembleRegressor
"""


def _relate_columns(r: Relation) -> None:
    """What is learnt goes by column."""
    for slot in range(len(r.node.inputs)):
        r.fix(r.axes(slot), "its attributes go by column")
    for index in range(len(r.node.outputs)):
        r.give([fixed(n) for n in r.shape(index)], index)


_TABLE = {
    "If": _NONE,
    "Loop": _NONE,
    "Scan": _NONE,
    "SequenceMap": _NONE,
    **dict.fromkeys(_RANDOM.split(), _SOURCE),
    "Multinomial": Op(random=True, chooses=True),
    **dict.fromkeys(_DECIDING.split(), Op(decides=True)),
}

TABLE = differentiable(
    related(_TABLE, {_relate_columns: _LEARNT + _DECIDING}), {**RULES, nothing: f"{_RANDOM} Multinomial"}
)
