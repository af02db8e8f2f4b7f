"""Two matrix products give what the gather gives, gradients included."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.roi.align import assign_levels, pyramid_roi_align, roi_align
from maskrcnn_jax.roi.separable import CHUNK, interpolation_matrix
from tests.traced import default_jit

ADAPTIVE = Sampling(sampling_ratio=0)
IMAGE = (64, 96)
STRIDES = (4, 8, 16, 32)


def maps(seed, b=2, c=3):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal((b, IMAGE[0] // s, IMAGE[1] // s, c)), jnp.float32) for s in STRIDES)


def boxes(seed, r, b=2):
    """Of all sizes, some without area, some over the border, some far outside, one huge."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-30, 100, (b, r, 2))
    sides = np.exp(rng.uniform(-1, 5, (b, r, 2))) * (rng.random((b, r, 1)) > 0.1)
    found = np.concatenate([corners, corners + sides], -1)
    found[:, 0] = [-300, -300, 500, 500]
    return jnp.asarray(found, jnp.float32)


@pytest.mark.parametrize(("aligned", "few"), [(True, 7), (False, 1)])
def test_equals_the_gather_of_every_level(aligned, few):
    """In chunks, and where there are fewer RoIs than a chunk takes."""
    many = CHUNK + 3
    levels, some = maps(0), boxes(0, many)
    # NumPy arrays: each of the slices below would be a program of its own.
    levels, some, chosen = jax.tree.map(np.asarray, (levels, some, assign_levels(some, canonical_size=56)))
    assert len(np.unique(chosen)) == 4
    options, rule = dict(output_size=3, sampling_ratio=0, aligned=aligned), Sampling(sampling_ratio=0, aligned=aligned)
    for image in range(2):
        each = [
            roi_align(level[image], some[image], spatial_scale=1 / stride, **options)
            for level, stride in zip(levels, STRIDES, strict=True)
        ]
        expected = np.stack(each)[chosen[image] - 2, np.arange(many)]
        for r in (few, many):
            pool = default_jit(partial(pyramid_roi_align, image_size=IMAGE, output_size=3, sampling=rule))
            pooled = pool(levels, some[:, :r], roi_levels=chosen[:, :r])
            np.testing.assert_allclose(pooled[image], expected[:r], atol=2e-6)


def test_gradients_equal_the_gather_s():
    """For the maps; a single level, so that `roi_align` is the same thing."""
    level, some = maps(1)[0], boxes(1, 9)
    levels, chosen = (level, *maps(2)[1:]), jnp.full((2, 9), 2)
    cotangent = jnp.asarray(np.random.default_rng(3).standard_normal((2, 9, 3, 3, 3)), jnp.float32)

    def separable(level):
        maps, options = (level, *levels[1:]), dict(image_size=IMAGE, output_size=3, sampling=ADAPTIVE)
        pooled = pyramid_roi_align(maps, some, roi_levels=chosen, **options)
        return (pooled * cotangent).sum()

    def gathered(level):
        pool = partial(roi_align, spatial_scale=0.25, output_size=3, sampling_ratio=0)
        pooled = jax.vmap(pool)(level, some)
        return (pooled * cotangent).sum()

    ours, expected = (jax.jit(jax.grad(pooled))(level) for pooled in (separable, gathered))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_weights_of_a_bin_add_up_to_the_share_of_its_samples_inside():
    rng = np.random.default_rng(0)
    position = jnp.asarray(rng.uniform(-1, 12, (5, 4, 3)), jnp.float32)
    counted = jnp.asarray(rng.random((5, 4, 3)) > 0.3)
    weights = interpolation_matrix(position, counted / 3, 12)
    np.testing.assert_allclose(weights.sum(-1), counted.mean(-1), atol=1e-6)
    assert (np.asarray(weights) >= 0).all()


def test_no_boxes():
    none = jnp.zeros((2, 0, 4))
    options = dict(image_size=IMAGE, output_size=3, sampling=ADAPTIVE)
    pooled = pyramid_roi_align(maps(0), none, roi_levels=jnp.zeros((2, 0), int), **options)
    assert pooled.shape == (2, 0, 3, 3, 3)
