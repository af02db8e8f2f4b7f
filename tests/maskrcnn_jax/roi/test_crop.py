"""`crop_and_resize` against TensorFlow's, and the arithmetic whose rounding decides what is inside."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.roi.crop import corner_samples, crop_and_resize, quotient
from tests import oracles, recorded, strategies
from tests.traced import assert_finite_gradients, default_jit

MAP = np.random.default_rng(0).normal(size=(9, 13, 3)).astype(np.float32)
RAMP = jnp.broadcast_to(jnp.arange(5.0), (5, 5))[..., None]


def test_corners_are_sampled_and_a_single_bin_in_the_middle():
    low, high, length = jnp.array([0.0, 0.5]), jnp.array([1.0, 1.5]), jnp.array([5, 5])
    three = corner_samples(low, high, length, bins=3)
    assert three.position[..., 0].tolist() == [[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]
    assert three.inside[..., 0].tolist() == [[True, True, True], [True, True, False]]
    assert corner_samples(low, high, length, bins=1).position.ravel().tolist() == [2.0, 4.0]


def test_by_hand():
    boxes = np.float32([[0, 0, 0.5, 1], [1, 0, 0.5, 1], [0.5, 0, 1.5, 1]])  # the left half, flipped, half outside
    assert crop_and_resize(RAMP, boxes, output_size=3)[:, 0, :, 0].tolist() == [[0, 1, 2], [4, 3, 2], [2, 4, 0]]
    assert crop_and_resize(RAMP, boxes[:1], output_size=1)[0, 0, 0, 0] == 1


@given(strategies.boxes(6, limit=1, most_side=1.5))
def test_equals_the_oracle(boxes):
    """Coordinates on eighths of a 9x17 map, 5 samples: exact in float32, so that the border itself can be hit."""
    features = np.random.default_rng(0).normal(size=(9, 17, 2)).astype(np.float32)
    expected = oracles.crop_and_resize(features, boxes, 5)
    np.testing.assert_allclose(crop_and_resize(features, boxes, output_size=5), expected, atol=5e-5)


def test_gradients_and_no_boxes():
    some = np.float32(np.random.default_rng(5).uniform(-0.2, 1.2, (6, 4)))
    crop = partial(crop_and_resize, output_size=3)
    assert_finite_gradients(crop, MAP, np.concatenate([some, some[:, [0, 1, 0, 1]]]))
    assert crop(MAP, np.zeros((0, 4), np.float32)).shape == (0, 3, 3, 3)


@given(strategies.boxes(6, limit=1), strategies.flags(6), st.sampled_from([np.nan, np.inf, 1e30]))
def test_what_stands_in_padded_rows_changes_no_other(boxes, valid, garbage):
    other = np.where(valid[:, None], boxes, np.float32(garbage))
    a, b = crop_and_resize(MAP, boxes, output_size=3), crop_and_resize(MAP, other, output_size=3)
    np.testing.assert_array_equal(a[valid], b[valid])


@pytest.mark.parametrize("size", [1, 7, 14])
def test_tensorflow(size):
    g = recorded.load("matterport_crops")
    crop = default_jit(partial(crop_and_resize, output_size=size))
    ours = np.asarray(crop(g["car_map"][0], recorded.xyxy(g["car_boxes"])))
    expected = g[f"car_out_{size}x{size}"]
    np.testing.assert_array_equal(ours == 0, expected == 0)  # no sample falls on the other side of the border
    np.testing.assert_allclose(ours, expected, atol=5e-5)


def test_a_quotient_is_divided():
    """Also by a constant, whose inverse XLA would multiply by."""
    whole, divisors = np.arange(1, 65, dtype=np.float32), np.arange(1, 15, dtype=np.float32)
    quotients = default_jit(lambda a: quotient(a, divisors))(whole[:, None] * divisors)
    np.testing.assert_array_equal(quotients, np.tile(whole[:, None], (1, 14)))
