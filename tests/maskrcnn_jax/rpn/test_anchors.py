import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.rpn.anchors import base_anchors, pyramid_anchors
from tests import oracles, recorded

LEVELS = dict(strides=(4, 8, 16, 32, 64), sizes=(32, 64, 128, 256, 512), ratios=(0.5, 1.0, 2.0))


def test_by_hand():
    """A ratio of 4: four times as high as wide. Row before column before ratio; centres on multiples of the stride."""
    assert base_anchors(8, (4.0,)).tolist() == [[-2, -8, 2, 8]]
    boxes = pyramid_anchors((16, 32), strides=(8, 16), sizes=(4, 8), ratios=(1.0, 4.0))
    assert len(boxes) == 2 * 4 * 2 + 1 * 2 * 2
    assert boxes[:3].tolist() == [[-2, -2, 2, 2], [-1, -4, 1, 4], [6, -2, 10, 2]]
    assert boxes[8].tolist() == [-2, 6, 2, 10]  # second row
    assert boxes[-2].tolist() == [12, -4, 20, 4]  # second level, second column
    assert boxes.dtype == np.float32


@given(st.integers(1, 90), st.integers(1, 90))
def test_equals_the_oracle(height, width):
    """Also where the stride does not divide the image."""
    options = dict(strides=(8, 16), sizes=(10, 20), ratios=(0.5, 1.0, 2.0))
    expected = oracles.anchor_grid(height, width, **options)
    np.testing.assert_allclose(pyramid_anchors((height, width), **options), expected, rtol=1e-6)


@given(st.floats(1, 500), st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]))
def test_area_and_ratio(size, ratio):
    (x1, y1, x2, y2), *_ = base_anchors(size, (ratio,))
    assert (x2 - x1) * (y2 - y1) == pytest.approx(size**2)
    assert (y2 - y1) / (x2 - x1) == pytest.approx(ratio)
    assert x1 == -x2
    rounded = base_anchors(size, (ratio,), rounded=True)
    np.testing.assert_array_equal(rounded, np.round(rounded))


def test_goldens():
    """Matterport lists its ratios as width / height, hence the preset's order, and is exact. torchvision rounds."""
    g = recorded.load("anchors")
    a = MaskRCNNConfig.matterport_coco().anchors
    ours = pyramid_anchors((256, 256), strides=a.strides, sizes=a.sizes, ratios=a.ratios)
    np.testing.assert_array_equal(ours[::7], recorded.xyxy(g["matterport"]).astype(np.float32))
    for name, config in (
        ("torchvision", MaskRCNNConfig.torchvision_coco()),
        ("detectron2", MaskRCNNConfig.detectron2_coco()),
    ):
        a = config.anchors
        ours = pyramid_anchors((256, 320), strides=a.strides, sizes=a.sizes, ratios=a.ratios, rounded=a.rounded)
        np.testing.assert_allclose(ours[::7], g[name], atol=1e-4)
