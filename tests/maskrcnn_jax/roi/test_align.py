"""RoI Align by hand, against the oracle and against torchvision, on one map and on a pyramid."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.roi.align import assign_levels, pyramid_roi_align, roi_align
from tests import oracles, recorded, strategies
from tests.traced import assert_jit_changes_nothing, default_jit

MAP = np.random.default_rng(0).normal(size=(9, 13, 3)).astype(np.float32)
RAMP = jnp.broadcast_to(jnp.arange(8.0), (8, 8))[..., None]


def some_boxes():
    """Ten boxes in pixels of an 18x26 image: five random; of no area, far outside, huge, half outside, flipped."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(-3, 20, (5, 2))
    random = np.concatenate([corner, corner + rng.uniform(0.3, 15, (5, 2))], 1)
    odd = [[5.3, 5.1, 5.3, 5.1], [60.2, 60, 70, 71], [-30.1, -20.3, 50.4, 40.9], [-6.2, 2, 3, 25.7], [9, 9, 4, 4]]
    return np.concatenate([random, odd]).astype(np.float32)


# -- roi_align ---------------------------------------------------------------------------------------------------------


def test_by_hand():
    """A box over cells 1..3 of f(y, x) = x in two bins: samples at 1.25, 1.75 and 2.25, 2.75, less half a cell."""
    box = jnp.array([[1.0, 1.0, 3.0, 3.0]])
    assert roi_align(RAMP, box, output_size=2)[0, :, :, 0].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert roi_align(RAMP, box, output_size=2, aligned=False)[0, :, :, 0].tolist() == [[1.5, 2.5], [1.5, 2.5]]
    assert roi_align(RAMP, box, output_size=2, reduce="max")[0, 0, :, 0].tolist() == [1.25, 2.25]
    assert roi_align(RAMP.swapaxes(0, 1), box, output_size=2)[0, :, 0, 0].tolist() == [1.0, 2.0]  # rows are y
    wide = jnp.array([[0.0, 4.0, 16.0, 8.0]])  # in pixels, four to a cell
    assert roi_align(RAMP, wide, output_size=1, spatial_scale=0.25).item() == 1.5


@pytest.mark.parametrize(
    ("size", "sampling_ratio", "aligned", "reduce"),
    [
        (4, 0, True, "mean"),
        (5, 1, True, "mean"),
        (5, 3, False, "mean"),
        (5, 0, True, "max"),
        (5, 0, False, "max"),
        (5, 1, False, "max"),
        (5, 3, True, "max"),
    ],
)
def test_equals_the_oracle(size, sampling_ratio, aligned, reduce):
    """The mean of two or adaptive samples in other sizes: `test_torchvision`."""
    options = dict(output_size=size, spatial_scale=0.5, sampling_ratio=sampling_ratio, aligned=aligned, reduce=reduce)
    ours = default_jit(partial(roi_align, max_samples=9, **options))(MAP, some_boxes())
    expected = oracles.roi_align(MAP, some_boxes(), max_samples=9, **options)
    np.testing.assert_allclose(ours, expected, atol=5e-5)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize(("size", "sampling_ratio"), [(3, 3), (5, 0), (7, 0), (7, 3)])
def test_samples_on_whole_cells(size, sampling_ratio):
    """Where a sample lies exactly on a cell, index and weight must round to the same one, also once compiled, and also
    where boxes are constants of the program, so that XLA folds one of the two. Boxes on whole pixels have many such.
    """
    rng = np.random.default_rng(2)
    corner = rng.integers(2, 30, (40, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 45, (40, 2))], 1).astype(np.float32)
    boxes[0] = 10, 8, 50, 60
    features = rng.normal(size=(24, 24, 1)).astype(np.float32)
    options = dict(output_size=size, spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=True)
    expected = oracles.roi_align(features, boxes, **options)
    pool = partial(roi_align, **options)
    for pooled in default_jit(lambda features, given: (pool(features, given), pool(features, boxes)))(features, boxes):
        np.testing.assert_allclose(pooled, expected, atol=5e-5)


@given(strategies.boxes(4, limit=12), st.sampled_from([1.0, 0.25]))
def test_a_constant_map_and_a_ramp(boxes, scale):
    """Inside the map RoI Align of a constant is that constant; of a ramp, the bins' centres."""
    inside = 2 + np.abs(boxes) % 5
    inside[:, 2:] = np.minimum(inside[:, :2] + 0.5 + np.abs(boxes[:, 2:] - boxes[:, :2]) % 3, 7)
    constant = roi_align(jnp.full((8, 8, 1), 3.5), inside / scale, output_size=2, spatial_scale=scale)
    np.testing.assert_allclose(constant, 3.5, rtol=1e-6)
    ramp = roi_align(RAMP, inside / scale, output_size=2, spatial_scale=scale)[..., 0]
    low, side = inside[:, 0], inside[:, 2] - inside[:, 0]
    centres = np.stack([low + side / 4, low + side * 3 / 4], 1) - 0.5
    np.testing.assert_allclose(ramp, np.tile(centres[:, None], (1, 2, 1)), atol=1e-5)


@given(strategies.boxes(6, limit=20), strategies.permutations(6))
def test_mirror_and_order(boxes, order):
    """Swapping x and y of map and boxes swaps the bins; the mean never exceeds the maximum; boxes are independent."""
    pooled = roi_align(MAP[:, :9], boxes, output_size=3)
    swapped = roi_align(MAP[:, :9].swapaxes(0, 1), recorded.xyxy(boxes), output_size=3)
    np.testing.assert_allclose(pooled, swapped.swapaxes(1, 2), atol=1e-5)
    np.testing.assert_array_equal(roi_align(MAP[:, :9], boxes[order], output_size=3), pooled[order])
    assert (roi_align(MAP[:, :9], boxes, output_size=3, reduce="max") >= pooled - 1e-5).all()


def test_the_adaptive_rule_stops_at_max_samples():
    box = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    few = roi_align(RAMP**2, box, output_size=1, sampling_ratio=0, max_samples=2)
    assert few == roi_align(RAMP**2, box, output_size=1, sampling_ratio=2)
    all_of_them = roi_align(RAMP**2, box, output_size=1, sampling_ratio=-1)  # torchvision's word for 0
    assert all_of_them.item() == pytest.approx(np.mean(np.arange(8) ** 2))


def test_degenerate():
    assert roi_align(RAMP, jnp.zeros((0, 4)), output_size=3).shape == (0, 3, 3, 1)
    flipped_and_outside = np.float32([[5, 5, 3, 3], [90, 90, 95, 95]])  # a flipped box has no adaptive samples
    for reduce in ("mean", "max"):
        assert not roi_align(RAMP, flipped_and_outside, output_size=2, sampling_ratio=0, reduce=reduce).any()


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_gradients_are_finite_and_match_differences(reduce):
    def pooled(features, boxes):
        return (roi_align(features, boxes, output_size=2, sampling_ratio=0, reduce=reduce) ** 2).sum()

    boxes = some_boxes() / 2
    both = jax.jit(jax.value_and_grad(pooled, (0, 1)))
    _, (by_map, by_boxes) = both(MAP, boxes)
    assert np.isfinite(by_map).all()
    assert np.isfinite(by_boxes).all()
    direction = np.random.default_rng(3).normal(size=MAP.shape).astype(np.float32)
    step = 1e-2
    difference = (both(MAP + step * direction, boxes)[0] - both(MAP - step * direction, boxes)[0]) / (2 * step)
    assert float(difference) == pytest.approx(float((by_map * direction).sum()), rel=2e-2)


@given(strategies.boxes(6, limit=20), strategies.flags(6), st.sampled_from([np.nan, np.inf, 1e30]))
def test_what_stands_in_padded_rows_changes_no_other(boxes, valid, garbage):
    other = np.where(valid[:, None], boxes, np.float32(garbage))
    a, b = (roi_align(MAP[:, :9], some, output_size=3) for some in (boxes, other))
    np.testing.assert_array_equal(a[valid], b[valid])


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("size", [5, 7, 14])
def test_torchvision(size, sampling_ratio, aligned):
    """Forward and gradient; RoIs alternate between two images. Rows 5, 7, 10: no area, leaving the map, outside."""
    g = recorded.load("torchvision_roi_align")
    assert g["roi.rois"][:, 0].tolist() == [0, 1] * 6
    features = np.moveaxis(g["roi.x"], 1, -1)
    boxes = g["roi.rois"][:, 1:].reshape(6, 2, 4).swapaxes(0, 1)
    cotangent = np.moveaxis(g[f"roi.cot{size}"], 1, -1).reshape(6, 2, size, size, -1).swapaxes(0, 1)

    pool = partial(
        roi_align,
        output_size=size,
        spatial_scale=float(g["roi.spatial_scale"]),
        sampling_ratio=sampling_ratio,
        aligned=bool(aligned),
        max_samples=-(-175 // size),  # the largest box covers 175 cells
    )
    pooled = default_jit(jax.vmap(pool))(features, boxes)
    (gradient,) = jax.vjp(lambda f: jax.vmap(pool)(f, boxes), features)[1](jnp.asarray(cotangent))
    name = f"roi.s{size}.sr{sampling_ratio}.al{aligned}"
    expected = np.moveaxis(g[f"{name}.y"], 1, -1)
    np.testing.assert_allclose(pooled.swapaxes(0, 1).reshape(expected.shape), expected, atol=5e-5)
    np.testing.assert_allclose(gradient, np.moveaxis(g[f"{name}.dx"], 1, -1), atol=1e-4)


# -- the pyramid -------------------------------------------------------------------------------------------------------


def pyramid(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.float32(rng.normal(size=(2, side, 2 * side, 3))) for side in (16, 8, 4, 2))


@pytest.mark.parametrize("pooling", ["bins", "corners"])
def test_each_box_reads_its_own_level_of_its_own_image(pooling):
    levels = pyramid()
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 40, (2, 6, 2))
    boxes = jnp.float32(np.concatenate([corner, corner + rng.uniform(2, 60, (2, 6, 2))], -1))
    roi_levels = jnp.array([[2, 3, 4, 5, 2, 5], [5, 4, 3, 2, 3, 2]])
    rule = Sampling(pooling, reduce="max")
    ours = pyramid_roi_align(levels, boxes, roi_levels=roi_levels, image_size=(64, 128), output_size=3, sampling=rule)
    for b, r in np.ndindex(2, 6):
        level = int(roi_levels[b, r])
        features = np.asarray(levels[level - 2][b])
        if pooling == "bins":
            expected = oracles.roi_align(features, boxes[b, r][None], 3, 0.5**level, 2, True, "max")
        else:
            expected = oracles.crop_and_resize(features, boxes[b, r][None] / np.array([128, 64, 128, 64]), 3)
        np.testing.assert_allclose(ours[b, r], expected[0], atol=5e-5)


@pytest.mark.parametrize("pooling", ["bins", "corners"])
def test_jit_changes_nothing_and_one_trace_serves_every_level(pooling):
    rng = np.random.default_rng(6)
    corner = rng.uniform(0, 40, (2, 2, 4, 2))
    boxes = np.float32(np.concatenate([corner, corner + rng.uniform(2, 60, (2, 2, 4, 2))], -1))
    options = dict(image_size=(64, 128), output_size=2, sampling=Sampling(pooling))
    assert_jit_changes_nothing(
        lambda levels, boxes, roi_levels: pyramid_roi_align(levels, boxes, roi_levels=roi_levels, **options),
        (pyramid(0), boxes[0], np.full((2, 4), 2)),
        (pyramid(1), boxes[1], rng.integers(2, 6, (2, 4))),
        atol=1e-5,
    )


def test_matterport_pyramid():
    """Its boxes are shares of (size - 1) with far edges one pixel inside: `far_edge`. Image size 1024."""
    g = recorded.load("matterport_boxes")
    shares = recorded.xyxy(g["pra_rois"])
    edge = np.float32([0, 0, 1, 1])
    boxes = jnp.asarray(shares * 1023 + edge)
    roi_levels = assign_levels((boxes - edge) * (1024 / 1023), rounding="round")
    assert set(np.unique(roi_levels).tolist()) == {2, 3, 4, 5}
    options = dict(image_size=(1024, 1024), output_size=7, sampling=Sampling("corners"), far_edge=1)
    levels = tuple(g[f"pra_P{level}"] for level in range(2, 6))
    ours = default_jit(partial(pyramid_roi_align, **options))(levels, boxes, roi_levels=roi_levels)
    np.testing.assert_allclose(ours, g["pra_out7"], atol=5e-5)


def test_gradient_into_the_pyramid_is_finite_and_stays_in_its_level():
    levels = pyramid()
    boxes = jnp.array([[[1.0, 1.0, 9.0, 9.0]], [[0.0, 0.0, 0.0, 0.0]]])
    pool = partial(pyramid_roi_align, image_size=(64, 128), output_size=2, sampling=Sampling())
    gradient = jax.jit(jax.grad(lambda f: pool(f, boxes, roi_levels=jnp.array([[3], [5]])).sum()))(levels)
    assert all(np.isfinite(g).all() for g in gradient)
    assert [bool(g[0].any()) for g in gradient] == [False, True, False, False]
    assert [bool(g[1].any()) for g in gradient] == [False, False, False, True]


def test_a_level_there_is_not():
    """Refused where it is known; clipped where it is traced, so that no other image or level is read."""
    levels, boxes = pyramid(), jnp.full((2, 1, 4), 9.0) * jnp.array([0, 0, 1, 1])
    pool = partial(pyramid_roi_align, levels, boxes, image_size=(64, 128), output_size=1, sampling=Sampling())
    for wrong, right in (([[1], [6]], [[2], [5]]), ([[-9], [99]], [[2], [5]])):
        with pytest.raises(ValueError, match="a level in roi_levels is"):
            pool(roi_levels=np.array(wrong))
        np.testing.assert_array_equal(jax.jit(pool)(roi_levels=np.array(wrong)), pool(roi_levels=np.array(right)))
