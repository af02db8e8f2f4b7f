"""Where samples lie, by hand; what is read there is tested in test_align.py."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.roi.bilinear import Maps
from maskrcnn_jax.roi.grid import bin_samples, pyramid_grid, sample_grid
from tests import strategies


def axis(low, high, *, bins, length=8, **rule):
    """Samples of a box from `low` to `high`, half a cell taken off already."""
    ends = jnp.array([low]) + 0.5, jnp.array([high]) + 0.5, jnp.array([length])
    samples = bin_samples(*ends, bins=bins, sampling=Sampling(**rule))
    return samples.position[0].tolist(), samples.inside[0].tolist(), samples.share[0].tolist()


def test_samples_stand_in_the_middle_of_equal_parts():
    position, inside, share = axis(1.0, 5.0, bins=2, sampling_ratio=2)
    assert position == [[1.5, 2.5], [3.5, 4.5]]
    assert inside == [[True, True], [True, True]]
    assert share == [0.5, 0.5]


def test_the_adaptive_rule_takes_as_many_as_cells_up_to_its_bound():
    """ceil(size of a bin): 3 of 8 slots for bins of 2.5 cells, both of 2 under a bound of 2, none without size."""
    np.testing.assert_allclose(axis(0.0, 5.0, bins=2, sampling_ratio=0)[2], [1 / 3] * 3 + [0] * 5)
    assert axis(0.0, 5.0, bins=2, sampling_ratio=0, max_samples=2)[2] == [0.5, 0.5]
    position = axis(0.0, 6.0, bins=2, sampling_ratio=0, max_samples=4)[0]
    assert position == [[0.5, 1.5, 2.5, 2.5], [3.5, 4.5, 5.5, 5.5]]  # the last repeated: no change to a maximum
    assert axis(3.0, 3.0, bins=2, sampling_ratio=0, max_samples=2)[1] == [[False] * 2] * 2


def test_more_than_a_cell_outside_reads_nothing():
    """From -1 to the length itself counts (torchvision), beyond does not."""
    _, inside, _ = axis(-2.5, 9.5, length=8, bins=12, sampling_ratio=1)
    assert [i for (i,) in inside] == [False] + [True] * 10 + [False]


@given(strategies.boxes(4, limit=50))
def test_the_grid_of_a_box_is_that_of_its_axes(boxes):
    """x1 and x2 make the columns, y1 and y2 the rows; boxes narrower than a cell are one wide where not aligned."""
    for aligned in (True, False):
        rule = Sampling(sampling_ratio=1, aligned=aligned)
        rows, columns = sample_grid(jnp.asarray(boxes), Maps.same(60, 60, 4), bins=2, sampling=rule)
        for found, low, high in ((rows, boxes[:, 1], boxes[:, 3]), (columns, boxes[:, 0], boxes[:, 2])):
            first = low - 0.5 if aligned else low
            size = high - low if aligned else np.maximum(high - low, 1.0)
            expected = np.stack([first + size / 4, first + size * 3 / 4], 1)
            np.testing.assert_allclose(found.position[..., 0], expected, atol=1e-4)


def test_each_roi_of_a_batch_reads_its_own_map():
    """Every cell of two images on two levels holds (level, image, row, column); each RoI's map begins at row 0."""
    shapes = ((3, 5), (2, 2))
    levels = []
    for number, (height, width) in enumerate(shapes):
        row, column = np.mgrid[:height, :width]
        images = [np.stack([np.full_like(row, number), np.full_like(row, image), row, column], -1) for image in (0, 1)]
        levels.append(np.float32(images))
    cells = np.concatenate([level.reshape(2, -1, 4) for level in levels], 1).reshape(-1, 4)
    roi_levels = np.array([[0, 1, 0], [1, 1, 0]])
    options = dict(image_size=(12, 20), bins=1, sampling=Sampling())
    maps, _, _ = pyramid_grid(tuple(map(jnp.asarray, levels)), jnp.zeros((2, 3, 4)), jnp.asarray(roi_levels), **options)
    for height, width, start, level, image in zip(*maps, roi_levels.ravel(), [0, 0, 0, 1, 1, 1], strict=True):
        assert cells[start].tolist() == [level, image, 0, 0]
        assert (height, width) == shapes[level]
        assert cells[start + height * width - 1].tolist() == [level, image, height - 1, width - 1]


def test_the_grid_of_a_pyramid_scales_boxes_to_their_maps():
    """A 64x32 image: on a map of 16x8 cells a box is a quarter as large; its corners for crop_and_resize are shares of
    the distance between the outermost centres, with the far edge taken off first.
    """
    levels, box, level = (jnp.zeros((1, 16, 8, 1)),), jnp.array([[[8.0, 16.0, 24.0, 32.0]]]), jnp.array([[0]])
    options = dict(image_size=(64, 32), bins=2)
    _, rows, columns = pyramid_grid(levels, box, level, sampling=Sampling(sampling_ratio=1), **options)
    assert rows.position.ravel().tolist() == [4.5, 6.5]
    assert columns.position.ravel().tolist() == [2.5, 4.5]
    _, rows, columns = pyramid_grid(levels, box, level, sampling=Sampling("corners"), far_edge=1, **options)
    np.testing.assert_allclose(rows.position.ravel(), np.array([16, 31]) / 63 * 15, rtol=1e-6)
    np.testing.assert_allclose(columns.position.ravel(), np.array([8, 23]) / 31 * 7, rtol=1e-6)
