import pytest

from obs_onnx.passes.errors import OptionError
from obs_onnx.quantization.options import QuantizationOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantize": "int4"}, "use one of int8, int8-weights, int4-weights"),
        ({"block_size": 24}, "no power of two"),
        ({"block_size": 8}, "block_size"),
        ({"targets_on": "quantized"}, "needs quantize"),
        ({"quantize_format": "qoperator"}, "no quantization was asked for"),
        ({"quantize_format": "qoperator", "quantize": "int8-weights"}, "int8-weights was asked for"),
    ],
)
def test_bad_values(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizationOptions(**given)
