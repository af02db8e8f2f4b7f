import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn_jax.boxes import coding
from tests import oracles, recorded, strategies
from tests.traced import assert_jit_changes_nothing

WEIGHTS = [(1, 1, 1, 1), (10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 3.0, 4.0)]
encode = jax.jit(coding.encode, static_argnames="weights")
decode = jax.jit(coding.decode, static_argnames=("weights", "max_log_scale"))


def test_by_hand():
    # A 4x4 anchor around (2, 2); the box is twice as wide, as high, and 3 to the right of it, 1 up.
    delta = coding.encode(jnp.array([[1.0, -1.0, 9.0, 3.0]]), jnp.array([[0.0, 0.0, 4.0, 4.0]]), (10, 10, 5, 5))
    np.testing.assert_allclose(delta, [[7.5, -2.5, 5 * np.log(2), 0]], rtol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(boxes=strategies.boxes(8, least_side=0.5), anchors=strategies.boxes(8, least_side=2))
def test_encode_equals_the_oracle_and_decode_inverts_it(weights, boxes, anchors):
    deltas = encode(boxes, anchors, weights)
    np.testing.assert_allclose(deltas, oracles.encode_boxes(boxes, anchors, weights), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(decode(deltas, anchors, weights, max_log_scale=None), boxes, atol=1e-3)
    np.testing.assert_array_equal(encode(anchors, anchors, weights), 0)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(
    deltas=hnp.arrays(np.float32, (8, 4), elements=st.floats(-8, 8, width=32)),
    anchors=strategies.boxes(8, least_side=1, most_side=30),
)
def test_decode_equals_the_oracle(weights, deltas, anchors):
    for limit in (None, coding.MAX_LOG_SCALE):
        expected = oracles.decode_boxes(deltas, anchors, weights, limit)
        scale = np.abs(expected).max(1, keepdims=True)
        np.testing.assert_allclose(
            decode(deltas, anchors, weights, max_log_scale=limit) / scale, expected / scale, atol=2e-6
        )


def test_clamp():
    anchor, delta = jnp.array([[0.0, 0.0, 16.0, 16.0]]), jnp.array([[0.0, 0.0, 50.0, 5.0]])
    width, height = np.asarray(coding.decode(delta, anchor))[0, 2:] - np.asarray(coding.decode(delta, anchor))[0, :2]
    assert width == pytest.approx(1000, rel=1e-5)
    assert height == pytest.approx(1000, rel=1e-5)
    free = coding.decode(delta, anchor, max_log_scale=None)
    assert free[0, 3] - free[0, 1] == pytest.approx(16 * np.exp(5), rel=1e-5)
    smaller = coding.decode(-delta, anchor)  # only growth is cut
    assert smaller[0, 3] - smaller[0, 1] == pytest.approx(16 * np.exp(-5), rel=1e-3)


def test_degenerate():
    zeros, boxes = jnp.zeros((2, 4)), jnp.array([[0.0, 0.0, 5.0, 5.0], [3.0, 3.0, 1.0, 1.0]])
    for a, b in ((zeros, boxes), (boxes, zeros), (zeros, zeros)):
        assert np.isfinite(coding.encode(a, b)).all()
        assert np.isfinite(jax.grad(lambda a, b: coding.encode(a, b).sum())(a, b)).all()
    assert coding.encode(jnp.zeros((0, 4)), jnp.zeros((0, 4))).shape == (0, 4)
    assert coding.decode(jnp.zeros((0, 4)), jnp.zeros((0, 4))).shape == (0, 4)
    gradient = jax.grad(lambda d: coding.decode(d, boxes).sum())(jnp.full((2, 4), 90.0))
    assert np.isfinite(gradient).all()


def test_leading_axes_broadcast():
    """One anchor for every class's deltas."""
    deltas = jax.random.normal(jax.random.key(0), (5, 3, 4))
    anchors = jnp.array([[0.0, 0.0, 8.0, 8.0]] * 5)
    together = coding.decode(deltas, anchors[:, None])
    np.testing.assert_array_equal(together[:, 1], coding.decode(deltas[:, 1], anchors))


def test_jit_changes_nothing_and_one_trace_serves_all():
    rng = np.random.default_rng(0)
    deltas, corners = np.float32(rng.normal(size=(2, 8, 4))), np.float32(rng.uniform(0, 40, (2, 8, 2)))
    boxes = np.concatenate([corners, corners + np.float32(rng.uniform(2, 30, (2, 8, 2)))], -1)
    assert_jit_changes_nothing(coding.decode, (deltas[0], boxes[0]), (deltas[1], boxes[1]), rtol=1e-6, atol=1e-5)
    assert_jit_changes_nothing(coding.encode, (boxes[0], boxes[1]), (boxes[1], boxes[0]), rtol=1e-6, atol=1e-6)


@given(boxes=strategies.boxes(8, least_side=0.5), anchors=strategies.boxes(8, least_side=2))
def test_rows_do_not_see_each_other(boxes, anchors):
    """What stands in a padded row stays there."""
    others = np.where(np.arange(8)[:, None] < 5, boxes, np.float32(-1e6))
    deltas = encode(boxes, anchors, WEIGHTS[0])
    np.testing.assert_array_equal(encode(others, anchors, WEIGHTS[0])[:5], deltas[:5])
    spoilt = np.where(np.arange(8)[:, None] < 5, deltas, np.float32(np.nan))
    again = decode(spoilt, anchors, WEIGHTS[0], max_log_scale=None)
    np.testing.assert_array_equal(again[:5], decode(deltas, anchors, WEIGHTS[0], max_log_scale=None)[:5])


@pytest.mark.parametrize(("name", "weights"), [("rpn", (1, 1, 1, 1)), ("roi", (10, 10, 5, 5))])
def test_torchvision_and_detectron2(name, weights):
    g = recorded.load("torchvision_boxes")
    ours = encode(g[f"coder.{name}.gt"], g[f"coder.{name}.prop"], weights)
    np.testing.assert_allclose(ours, g[f"coder.{name}.encoded"], rtol=1e-5)
    deltas = g[f"coder.{name}.deltas"].reshape(50, 3, 4)
    ours = decode(deltas, g[f"coder.{name}.prop"][:, None], weights)
    np.testing.assert_allclose(ours, g[f"coder.{name}.decoded"], rtol=1e-5)


def test_matterport():
    """It measures boxes y first, and divides by standard deviations outside this function."""
    g = recorded.load("matterport_boxes")
    boxes, deltas = recorded.xyxy(g["boxes_a"]), recorded.xyxy(g["deltas"])
    ours = decode(deltas, boxes, (1, 1, 1, 1), max_log_scale=None)
    np.testing.assert_allclose(ours, recorded.xyxy(g["apply_box_deltas"]), rtol=1e-5)
    ours = encode(recorded.xyxy(g["boxes_b"]), boxes[:9], (1, 1, 1, 1))
    np.testing.assert_allclose(ours, recorded.xyxy(g["box_refinement"]), rtol=1e-5)
    ours = encode(recorded.xyxy(g["boxes_b"]), boxes[:9], (10, 10, 5, 5))
    expected = recorded.xyxy(g["box_refinement"]) / [0.1, 0.1, 0.2, 0.2]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
