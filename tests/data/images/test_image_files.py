"""Images: preprocessing, labels from folders and tables."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from ten_samples import F32

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.passes.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    """Two classes of 6 x 4 (width x height) pictures; every picture has one colour."""
    from PIL import Image

    for number, (folder, colour) in enumerate([("b", (0, 0, 255)), ("a", (255, 0, 0)), ("a", (0, 51, 0))]):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), colour).save(tmp_path / folder / f"{number}.png")
    return tmp_path


IMAGE = (TensorSpec("image", ("N", 3, 4, 4), F32),)


def test_images(pictures):
    (pictures / "preprocess.json").write_text(
        json.dumps({"resize": 4, "crop": 4, "mean": [0.5, 0, 0], "std": [0.5, 1, 2]})
    )
    source = open_source(pictures, IMAGE)
    ((feed, labels),) = source.batches()
    assert labels.tolist() == [0, 0, 1]
    assert feed["image"].shape == (3, 3, 4, 4)
    np.testing.assert_allclose(feed["image"][:, :, 1, 2], [[1, 0, 0], [-1, 0.2, 0], [-1, 0, 0.5]], atol=1e-6)


def test_images_in_other_orders(pictures):
    spec = (TensorSpec("image", ("N", 4, 6, 3), np.dtype(np.uint8)),)
    source = open_source(pictures, spec, preprocess={"layout": "NHWC", "order": "BGR", "scale": 1})
    assert next(iter(source))["image"][:, 0, 0].tolist() == [[0, 0, 255], [0, 51, 0], [255, 0, 0]]
    grey = (TensorSpec("image", ("N", 1, 2, 3), F32),)
    feed = next(iter(open_source(pictures, grey, preprocess={"order": "L", "resize": [2, 3]})))
    np.testing.assert_allclose(feed["image"][0], 76 / 255, atol=1e-6)


def test_crop_takes_the_centre(tmp_path):
    from PIL import Image

    x = np.arange(80, dtype=np.uint8).reshape(8, 10)
    Image.fromarray(x).save(tmp_path / "a.png")
    spec = (TensorSpec("image", ("N", 1, 2, 4), F32),)
    source = open_source(tmp_path, spec, preprocess={"order": "L", "crop": [2, 4], "scale": 1})
    assert not source.has_labels
    np.testing.assert_array_equal(next(iter(source))["image"][0, 0], x[3:5, 3:7])


def test_labels_from_csv(pictures):
    table = pictures / "labels.csv"
    table.write_text("file,label\na/1.png,7\na/2.png,5\nb/0.png,3\n")
    ((_, labels),) = open_source(pictures, IMAGE, preprocess={"resize": [4, 4]}).batches()
    assert labels.tolist() == [7, 5, 3]
    table.write_text("a/1.png,7\na/2.png,5\n")
    with pytest.raises(DataError, match=r"labels\.csv: no label for b/0\.png"):
        open_source(pictures, IMAGE, preprocess={"resize": [4, 4]})
    table.write_text("a/1.png,7\na/2.png,five\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2"):
        open_source(pictures, IMAGE, preprocess={"resize": [4, 4]})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 4}, "unknown key 'size'"),
        ({"layout": "CHW"}, "layout 'CHW' is none of NCHW, NHWC"),
        ({"order": "CMYK"}, "order 'CMYK'"),
        ({"interpolation": "magic"}, "interpolation 'magic'"),
        ({"mean": [1, 2]}, "mean needs 3 values"),
        ({"std": [1, 0, 1]}, "std holds a zero"),
        ({"mean": "grey"}, "mean holds something that is no number"),
        ({"scale": None}, "scale holds something that is no number"),
        ({"resize": 0}, "resize is a number of pixels"),
        ({"crop": "big"}, "crop is a number of pixels"),
        ({"resize": [1, 2, 3]}, "resize is a number of pixels"),
        ({"resize": [7]}, "resize is a number of pixels"),
        ({"resize": 5.5}, "resize is a number of pixels"),
        ({"crop": True}, "crop is a number of pixels"),
        ({"crop": {"height": 4}}, "crop is a number of pixels"),
        ({"interpolation": ["bilinear"]}, "interpolation"),
        ({"scale": [1, 2]}, "scale is one number"),
        ({"scale": float("nan")}, "finite numbers"),
        ({"mean": [10**400]}, "mean holds something that is no number"),
        ({"std": float("inf")}, "finite numbers"),
        ({"resize": [5, 5]}, r"array 'image' has shape \(3, 3, 5, 5\)"),
    ],
)
def test_bad_preprocessing(pictures, how, message):
    with pytest.raises(DataError, match=message):
        open_source(pictures, IMAGE, preprocess=how)


def test_images_need_preprocessing_of_one_shape(pictures):
    from PIL import Image

    with pytest.raises(DataError, match=r"preprocess\.json: missing"):
        open_source(pictures, IMAGE)
    (pictures / "preprocess.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_source(pictures, IMAGE)
    (pictures / "preprocess.json").write_text("[]")
    with pytest.raises(DataError, match="JSON object"):
        open_source(pictures, IMAGE)
    Image.new("RGB", (9, 9)).save(pictures / "b" / "9.png")
    spec = (TensorSpec("image", ("N", 3, "H", "W"), F32),)
    with pytest.raises(DataError, match=r"9\.png: gives shape"):
        list(open_source(pictures, spec, preprocess={}))
    (pictures / "b" / "9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"9\.png: cannot read the image"):
        list(open_source(pictures, IMAGE, preprocess={"resize": [4, 4]}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"resize": 1' + "0" * 5000 + "}", "\x00", '{"a":' * 40_000])
def test_preprocessing_that_cannot_be_read(pictures, text):
    (pictures / "preprocess.json").write_text(text)
    with pytest.raises(DataError, match=re.escape("preprocess.json")):
        open_source(pictures, IMAGE)


def test_pictures_of_absurd_size(pictures):
    for how in ({"resize": 100_000_000, "crop": 5}, {"crop": [10**6, 10**6]}):
        with pytest.raises(DataError, match=r"of memory, more than .* give smaller samples"):
            open_source(pictures, IMAGE, preprocess=how)
