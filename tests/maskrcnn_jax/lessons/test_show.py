"""Pictures, sources and tables as the lessons show them."""

import base64
import re

import numpy as np
import pytest

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

import cv2

from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.lessons import show
from maskrcnn_jax.lessons.drops import box_of, scene


def pictures(html):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for one in found]


def test_an_image_comes_through_unchanged_and_its_caption_escaped():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    html = show.panels({"a < b": image, "grey": image[..., 0]}).text
    assert "<figcaption" in html
    assert html.count("a &lt; b") == 2, "as caption and for screen readers"
    coloured, grey = pictures(html)
    assert (coloured == image).all()
    assert (grey[..., 0] == image[..., 0]).all()


def test_boxes_lie_where_they_should_over_an_image():
    figure, axes = show.photo(np.full((40, 80, 3), 255, np.uint8))
    show.boxes_over(axes, np.array([[20.0, 10.0, 60.0, 30.0]]), show.BLUE, width=1, halo=False)
    (picture,) = pictures(show.panels({"box": figure}).text)
    rows, columns = np.nonzero(picture.min(-1) < 128)
    height, width = picture.shape[:2]
    assert np.allclose([columns.min() / width, columns.max() / width], [0.25, 0.75], atol=0.01)
    assert np.allclose([rows.min() / height, rows.max() / height], [0.25, 0.75], atol=0.01)


def test_the_source_shown_is_the_package_s_own():
    text = re.sub(r"<[^>]+>", "", show.source(iou).text)
    assert "The code: maskrcnn_jax.boxes.geometry.iou" in text
    assert "shared = intersection(a, b)" in text


def test_a_table_has_its_rows():
    html = show.table(["what", "number"], [["a", 1], ["b", 2]]).text
    assert html.count("<tr>") == 3
    assert "overflow-x:auto" in html


def test_scenes_are_repeatable_and_their_boxes_fit_their_masks():
    drop = scene(3, crystals=4)
    assert drop.image.shape == (256, 320, 3)
    assert len(drop.boxes) == len(drop.masks) > 0
    for box, mask in zip(drop.boxes, drop.masks, strict=True):
        x1, y1, x2, y2 = box.astype(int)
        assert mask[y1:y2, x1:x2].sum() == mask.sum()
        assert (box_of(mask) == box).all()
