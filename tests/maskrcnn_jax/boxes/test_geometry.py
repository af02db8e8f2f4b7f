import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.boxes import geometry
from tests import oracles, recorded, strategies
from tests.traced import assert_jit_changes_nothing, default_jit

iou, intersection, area, clip_to_window = map(
    jax.jit, (geometry.iou, geometry.intersection, geometry.area, geometry.clip_to_window)
)
clip = jax.jit(lambda boxes: geometry.clip(boxes, 20, 30))


def test_by_hand():
    table = geometry.iou(jnp.array([[0.0, 0.0, 4.0, 2.0]]), jnp.array([[2.0, 1.0, 6.0, 3.0], [4.0, 0.0, 8.0, 2.0]]))
    assert table.tolist() == [[pytest.approx(2 / 14), 0.0]]  # 2x1 shared of 8 + 8 - 2; the other only touches
    assert geometry.area(jnp.array([[1.0, 2.0, 4.0, 8.0], [4.0, 2.0, 1.0, 8.0]])).tolist() == [18.0, 0.0]


@given(strategies.boxes(6), strategies.boxes(5))
def test_iou_equals_the_oracle_and_is_symmetric(a, b):
    table = np.asarray(iou(a, b))
    np.testing.assert_allclose(table, oracles.box_iou(a, b), rtol=1e-6, atol=0)
    np.testing.assert_array_equal(table, iou(b, a).T)
    assert table.min() >= 0
    assert table.max() <= 1


@given(strategies.boxes(6, least_side=1), st.sampled_from([0.25, 3.0, 64.0]), st.integers(-50, 50))
def test_iou_is_free_of_scale_and_place(a, scale, shift):
    np.testing.assert_allclose(iou(a, a[:5]), iou((a + shift) * scale, (a[:5] + shift) * scale), rtol=1e-5)
    np.testing.assert_array_equal(np.diag(iou(a, a[:5])), 1)


@given(strategies.boxes(6), strategies.boxes(6))
def test_intersection_and_area(a, b):
    shared = np.asarray(intersection(a, b))
    areas = np.asarray(area(a))
    np.testing.assert_allclose(areas, [oracles.box_area(box) for box in a])
    assert (shared <= np.minimum(areas[:, None], np.asarray(area(b))[None])).all()


@given(strategies.boxes(6, limit=60))
def test_clip(boxes):
    window = np.array([3, -7, 40, 21], np.float32)
    clipped = clip_to_window(boxes, window)
    np.testing.assert_array_equal(clipped, oracles.clip_boxes(boxes, window))
    np.testing.assert_array_equal(clip_to_window(clipped, window), clipped)
    np.testing.assert_array_equal(clip(boxes), oracles.clip_boxes(boxes, [0, 0, 30, 20]))


def test_degenerate():
    boxes = jnp.array([[1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 2.0, 2.0], [0.0, 0.0, 6.0, 6.0]])
    assert np.asarray(geometry.iou(boxes, boxes)).tolist() == np.diag([0.0, 0, 0, 1]).tolist()
    assert geometry.iou(jnp.zeros((0, 4)), boxes).shape == (0, 4)
    assert geometry.iou(boxes, jnp.zeros((0, 4))).shape == (4, 0)
    gradient = jax.grad(lambda b: geometry.iou(b, b).sum())(boxes)
    assert np.isfinite(gradient).all()


def test_jit_changes_nothing_and_one_trace_serves_all():
    some, others = np.random.default_rng(0).uniform(0, 50, (2, 6, 4)).astype(np.float32)
    some[:, 2:] += some[:, :2]  # the others have flipped boxes among them
    for function in (geometry.iou, geometry.intersection):
        assert_jit_changes_nothing(function, (some, some[:5]), (others, some[:5]), rtol=1e-6)
    assert_jit_changes_nothing(geometry.area, (some,), (others,), rtol=1e-6)
    assert_jit_changes_nothing(geometry.clip_to_window, (some, some[0]), (others, some[1]))
    assert_jit_changes_nothing(lambda boxes: geometry.clip(boxes, 20, 30), (some,), (others,))


def test_compiled_overlaps_round_as_float32_does():
    """With XLA's default options as well: no product is contracted with a sum, so equal overlaps stay equal."""
    corners = np.random.default_rng(1).uniform(0, 400, (340, 2)).astype(np.float32)
    sizes = np.random.default_rng(2).uniform(5, 100, (340, 2)).astype(np.float32)
    a, b = np.split(np.concatenate([corners, corners + sizes], 1), [40])
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    shared = np.maximum(sides, 0).prod(-1)
    areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    expected = shared / (areas_a[:, None] + areas_b - shared)
    np.testing.assert_array_equal(default_jit(geometry.iou)(a, b), expected)
    best = default_jit(lambda a, b: geometry.iou(a, b).max(1))(a, b)  # another program of the same numbers
    np.testing.assert_array_equal(best, expected.max(1))


def test_goldens():
    tv, mp = recorded.load("torchvision_boxes"), recorded.load("matterport_boxes")
    np.testing.assert_array_equal(iou(tv["nms.boxes"][:40], tv["nms.boxes"][40:90]), tv["nms.iou"])
    np.testing.assert_allclose(iou(mp["boxes_a"], mp["boxes_b"]), mp["overlaps"], rtol=1e-6)
    window = jnp.array([30.0, 20.0, 160.0, 150.0])
    clipped = clip_to_window(recorded.xyxy(mp["boxes_a"]), window)
    np.testing.assert_array_equal(clipped, recorded.xyxy(mp["clip_boxes"]))
