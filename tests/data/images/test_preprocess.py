"""Preprocessing: presets with the numbers that libraries use, and what the input tells by itself."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.images.preprocess import Preprocess, layout_of
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError

Image = pytest.importorskip("PIL.Image")
F32 = np.dtype(np.float32)


def spec(*shape, dtype=F32) -> TensorSpec:
    return TensorSpec("image", shape, np.dtype(dtype))


@pytest.fixture
def folder(tmp_path):
    """Two pictures of one colour each, 8 wide and 6 high."""
    Image.new("RGB", (8, 6), (255, 0, 51)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 6), (0, 255, 102)).save(tmp_path / "b.png")
    return tmp_path


def first(folder, one: TensorSpec, preprocess=None) -> np.ndarray:
    return next(iter(open_source(folder, [one], preprocess=preprocess)))["image"][0]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("imagenet", [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]),
        ("0..1", [1, 0, 0.2]),
        ("-1..1", [1, -1, -0.6]),
        ("0..255", [255, 0, 51]),
    ],
)
def test_presets(folder, preset, expected) -> None:
    x = first(folder, spec("N", 3, 4, 4), preset)
    assert x.shape == (3, 4, 4)
    np.testing.assert_allclose(x[:, 1, 2], expected, atol=1e-5)
    (folder / "preprocess.json").write_text(f'{{"preset": "{preset}", "order": "BGR"}}')
    np.testing.assert_allclose(first(folder, spec("N", 3, 4, 4))[:, 1, 2], expected[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layout", "size", "channels"),
    [
        (("N", 3, 32, 64), "CHW", (32, 64), 3),
        (("N", 32, 64, 3), "HWC", (32, 64), 3),
        ((1, 28, 28, 1), "HWC", (28, 28), 1),
        ((1, 1, 28, 28), "CHW", (28, 28), 1),
        (("N", "H", "W", 3), "HWC", (None, None), 3),
        (("N", 4, 32, 32), "CHW", (32, 32), 4),
        (("N", 4, 6, 3), "HWC", (4, 6), 3),
        (("N", 3, 3, 3), "CHW", (3, 3), 3),
        (("N", "C", "H", "W"), "CHW", (None, None), None),
        ((224, 224, 3), "HWC", (224, 224), 3),
        ((3, 224, 224), "CHW", (224, 224), 3),
        (("N", 28, 28), "HW", (28, 28), 1),
    ],
)
def test_layout_of_an_input(shape, layout, size, channels) -> None:
    assert layout_of(spec(*shape)) == (layout, size, channels)


def test_inputs_that_take_no_images() -> None:
    with pytest.raises(DataError, match="takes no images: give arrays"):
        layout_of(spec("N", 7))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_whole_numbers_take_pixels_as_they_are(folder, dtype) -> None:
    x = first(folder, spec("N", 4, 4, 3, dtype=dtype))
    assert x.dtype == dtype
    assert x[1, 2].tolist() == [255, 0, 51]
    (folder / "preprocess.json").write_text('{"resize": [4, 4], "layout": "NHWC"}')
    assert first(folder, spec("N", 4, 4, 3, dtype=dtype))[1, 2].tolist() == [255, 0, 51]


@pytest.mark.parametrize(
    ("dtype", "how", "message"),
    [
        (np.uint8, "0..1", r"takes whole numbers \(uint8\), and pixels would become 0 to 1: leave out scale"),
        (np.uint8, {"scale": 1 / 255}, "pixels would become 0 to 1"),
        (np.uint8, "imagenet", "takes whole numbers"),
        (np.int8, None, "use scale 1 and mean 128"),
        (np.bool_, None, "takes whole numbers"),
    ],
)
def test_pixels_that_the_type_cannot_hold(folder, dtype, how, message) -> None:
    with pytest.raises(DataError, match=message):
        first(folder, spec("N", 4, 4, 3, dtype=dtype), how)
    x = first(folder, spec("N", 4, 4, 3, dtype=np.int8), {"mean": 128})
    assert x[0, 0].tolist() == [127, -128, -77]


def test_channels_are_those_of_the_input(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 51, 128)).save(tmp_path / "a.png")
    assert first(tmp_path, spec("N", 4, 4, 4), "0..255")[:, 0, 0].tolist() == [255, 0, 51, 128]
    assert first(tmp_path, spec("N", 3, 4, 4), "0..255")[:, 0, 0].tolist() == [255, 0, 51]
    assert first(tmp_path, spec("N", 1, 4, 4), "0..255")[:, 0, 0].tolist() == [82]  # 0.299 R + 0.114 B
    assert first(tmp_path, spec("N", 4, 4), "0..255")[0, 0] == 82
    np.testing.assert_allclose(first(tmp_path, spec("N", 4, 4, 4), "imagenet")[3, 0, 0], 128 / 255, atol=1e-6)
    np.testing.assert_allclose(
        first(tmp_path, spec("N", 1, 4, 4), "imagenet")[0, 0, 0], (82 / 255 - 0.449) / 0.226, atol=1e-5
    )
    assert first(tmp_path, spec(4, 4, 3), "0..255")[0].tolist() == [255, 0, 51]  # a model without a batch


def test_grey_and_palette_pictures_for_a_model_of_colours(tmp_path) -> None:
    Image.new("L", (4, 4), 80).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4), (80, 80, 80)).quantize(4).save(tmp_path / "b.png")
    feed = next(iter(open_source(tmp_path, [spec("N", 3, 4, 4)], preprocess="0..255")))["image"]
    assert np.abs(feed - 80).max() <= 3  # a palette has few colours


def test_pictures_of_sixteen_bits_are_not_cut_off(tmp_path) -> None:
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    assert first(tmp_path, spec("N", 1, 4, 4), "0..255")[0, 0, 0] == 100
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: pixels are no whole numbers: give arrays"):
        list(open_source(tmp_path, [spec("N", 1, 4, 4)], preprocess="0..255"))


def test_sizes_are_those_of_the_input() -> None:
    def sized(given, *shape):
        found = Preprocess.of(given, spec(*shape), "here")
        return found.resize, found.crop

    assert sized({"preset": "imagenet"}, "N", 3, 224, 224) == (256, 224)
    assert sized({"preset": "imagenet"}, "N", 3, 256, 128) == ((256, 128), None)
    assert sized({"preset": "0..1"}, "N", 3, 32, 64) == ((32, 64), None)
    assert sized({"resize": 256}, "N", 3, 224, 224) == (256, (224, 224))
    assert sized({"resize": 40, "crop": 36}, "N", 3, 32, 32) == (40, 36)
    assert sized({}, "N", 3, "H", "W") == (None, None)


def test_what_is_missing_is_named(folder) -> None:
    with pytest.raises(
        DataError, match=r"preprocess\.json: missing.*preprocess with one of imagenet, 0\.\.1"
    ):
        first(folder, spec("N", 3, 4, 4))
    with pytest.raises(DataError, match="no/such/file: missing"):
        first(folder, spec("N", 3, 4, 4), "no/such/file")
    with pytest.raises(DataError, match="preset 'caffe' is none of imagenet"):
        first(folder, spec("N", 3, 4, 4), {"preset": "caffe"})
    with pytest.raises(DataError, match="preprocessing is a name, a dict or a file, not a float"):
        first(folder, spec("N", 3, 4, 4), 0.5)
