import pytest

from obs_onnx.entrypoints.options.quantize import QuantizeOptions
from obs_onnx.passes.errors import OptionError


def test_what_opens_a_model_gets_the_same_options() -> None:
    search = QuantizeOptions(seed=3, fix=["a=1"], damping=0.5, latency=False).search
    assert (search.seed, search.fix, search.damping, search.latency) == (3, ["a=1"], 0.5, False)
    assert QuantizeOptions(to="int8-weights", block_size=64).quantization.block_size == 64


def test_custom_operators_go_with_weights_alone() -> None:
    assert QuantizeOptions(to="int8-weights", custom_ops=["x.so"]).to == "int8-weights"
    with pytest.raises(OptionError, match="libraries"):
        QuantizeOptions(custom_ops=["x.so"])
