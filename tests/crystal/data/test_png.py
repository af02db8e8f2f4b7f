"""Our PNG files are read by OpenCV and by Pillow as what was written."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from crystal.data.png import encode_mask, encode_palette, encode_rgb

SIZES = [(1, 1), (1, 9), (7, 8), (60, 81)]


def by_pillow(data):
    image = Image.open(io.BytesIO(data))
    image.verify()  # checksums
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_colour(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for given in (image, image[:, ::-1][:, ::-1], np.asfortranarray(image)):
        data = encode_rgb(given)
        assert np.array_equal(np.array(by_pillow(data)), image)
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], image)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_palette(height, width):
    rng = np.random.default_rng(0)
    indices, colours = rng.integers(0, 5, (height, width), np.uint8), rng.integers(0, 256, (5, 3), np.uint8)
    read = by_pillow(encode_palette(indices, colours))
    assert read.mode == "P"
    assert np.array_equal(np.array(read), indices)
    assert np.array_equal(np.array(read.convert("RGB")), colours[indices])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mask(height, width):
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = rng.integers(0, height), rng.integers(0, width)
        patch = rng.random((rng.integers(0, height - top + 1), rng.integers(0, width - left + 1))) < 0.5
        whole = np.zeros((height, width), bool)
        whole[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
        data = encode_mask(patch, int(top), int(left), height=height, width=width)
        assert np.array_equal(np.array(by_pillow(data)), whole)
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) > 0, whole)


def test_a_photograph_shrinks():
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8), (0, 0), 5)
    assert len(encode_rgb(image)) < 0.6 * image.nbytes
