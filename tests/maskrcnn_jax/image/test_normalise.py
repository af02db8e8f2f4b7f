import jax
import jax.numpy as jnp
import numpy as np

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


def test_values_are_not_asked_for_while_tracing():
    assert jax.eval_shape(as_batch, jnp.ones((1, 64, 64, 3)))[0].shape == (1, 64, 64, 3)
    assert as_batch(np.zeros((2, 64, 64, 3)))[1].shape == (2, 4)  # a black image says nothing
