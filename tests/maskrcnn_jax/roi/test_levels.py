"""FPN's equation 1 by hand, against the oracle and the recorded levels of torchvision and Detectron2."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.roi.levels import assign_levels
from tests import oracles, recorded, strategies
from tests.traced import default_jit


def test_levels_by_hand():
    sides = np.float32([0, 10, 111, 112, 223, 224, 447, 448, 5000])
    boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert assign_levels(boxes).tolist() == [2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert assign_levels(boxes, rounding="round").tolist() == [2, 2, 3, 3, 4, 4, 5, 5, 5]
    wide = jnp.array([[0.0, 0.0, 448.0, 112.0], [0.0, 0.0, -9.0, 500.0]])
    assert assign_levels(wide).tolist() == [4, 2]
    assert assign_levels(wide, min_level=3, max_level=3).tolist() == [3, 3]


def test_no_number_and_no_end():
    odd = np.float32([[0, 0, np.nan, 9], [np.nan, 0, 900, 900], [0, 0, np.inf, 9], [0, 0, -np.inf, np.inf]])
    assert assign_levels(odd).tolist() == [2, 2, 5, 2]


@given(strategies.boxes(8, limit=60, most_side=900), st.sampled_from(["floor", "round"]))
def test_levels_equal_the_oracle(boxes, rounding):
    boxes[:, 2:] += 1 / 3  # keeps sizes off the exact powers of two
    ours = assign_levels(boxes, rounding=rounding)
    assert ours.tolist() == [oracles.pyramid_level(box, rounding) for box in boxes]


def test_levels_of_torchvision_and_detectron2():
    g = recorded.load("torchvision_boxes")
    boxes = g["level.boxes"]
    ours, exact = default_jit(lambda boxes: (assign_levels(boxes, epsilon=1e-6), assign_levels(boxes)))(boxes)
    np.testing.assert_array_equal(ours - 2, g["level.ids"])
    # Detectron2 adds 1e-8 within the logarithm; its float32 sum with 4 then rounds the side 447.9999 up to level 5.
    np.testing.assert_array_equal(ours - 2, g["d2.level.ids"])
    exact = np.flatnonzero(exact - 2 != g["d2.level.ids"])
    np.testing.assert_allclose(boxes[exact], [[3, 5, 450.9999, 452.9999]])
