import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.image.normalise import as_batch, normalise


def test_black_and_white_as_the_sources_have_them():
    """Matterport's mean; torchvision's mean and deviation, and 0 in its padding."""
    window = jnp.array([[0.0, 0.0, 4.0, 2.0]])
    black = normalise(jnp.zeros((1, 4, 4, 3), jnp.uint8), window, config=MaskRCNNConfig.paper().image)
    np.testing.assert_allclose(black, np.broadcast_to([-123.7, -116.8, -103.9], (1, 4, 4, 3)), rtol=1e-6)
    config = MaskRCNNConfig.torchvision_coco().image
    white = normalise(jnp.full((1, 4, 4, 3), 255, jnp.uint8), window, config=config)
    np.testing.assert_allclose(white[0, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5)
    assert not white[0, 2:].any()
    assert white[0, :2].all()


@pytest.mark.parametrize(
    ("images", "windows", "text"),
    [
        (np.zeros((1, 64, 64), np.uint8), None, "images has shape [1, 64, 64]; give RGB images as"),
        (np.zeros((1, 64, 64, 1), np.uint8), None, "images has shape [1, 64, 64, 1]; give RGB images as"),
        (np.zeros((1, 96, 96, 3), np.uint8), None, "images are 96 x 96 pixels; height and width must be multiples of"),
        (np.full((1, 64, 64, 3), 0.75), None, "images have values up to 0.75; give 0 to 255, not 0 to 1"),
        (np.zeros((1, 64, 64, 3), np.uint8), np.zeros((2, 4)), "detect: images has 1 rows but windows has 2"),
        (np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 5)), "windows has shape [1, 5]; give an array [b, 4]"),
    ],
)
def test_what_is_no_batch_is_refused(images, windows, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        as_batch(images, windows)


def test_values_are_not_asked_for_while_tracing():
    assert jax.eval_shape(as_batch, jnp.ones((1, 64, 64, 3)))[0].shape == (1, 64, 64, 3)
    assert as_batch(np.zeros((2, 64, 64, 3)))[1].shape == (2, 4)  # a black image says nothing
