"""Where samples lie, by hand; what is read there is tested in test_align.py."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given

from maskrcnn_jax.roi import grid
from maskrcnn_jax.roi.grid import Maps, pyramid_maps
from tests import strategies
from tests.traced import default_jit

SAMPLING = ("bins", "sampling_ratio", "max_samples")
bin_samples = default_jit(grid.bin_samples, static_argnames=SAMPLING)
corner_samples = default_jit(grid.corner_samples, static_argnames="bins")
bin_grid = default_jit(grid.bin_grid, static_argnames=(*SAMPLING, "aligned"))
pyramid_grid = default_jit(
    grid.pyramid_grid, static_argnames=(*SAMPLING, "aligned", "image_size", "pooling", "far_edge")
)


def axis(low, high, length=8, **options):
    samples = bin_samples(jnp.array([low]), jnp.array([high]), jnp.array([length]), **options)
    return samples.position[0].tolist(), samples.inside[0].tolist(), samples.used[0].tolist()


def test_samples_stand_in_the_middle_of_equal_parts():
    position, inside, used = axis(1.0, 5.0, bins=2, sampling_ratio=2, max_samples=8)
    assert position == [[1.5, 2.5], [3.5, 4.5]]
    assert inside == [[True, True], [True, True]]
    assert used == [True, True]


def test_the_adaptive_rule_takes_as_many_as_cells_up_to_its_bound():
    """ceil(size of a bin): 3 of 8 slots for bins of 2.5 cells, both of 2 under a bound of 2, none without size."""
    assert axis(0.0, 5.0, bins=2, sampling_ratio=0, max_samples=8)[2] == [True] * 3 + [False] * 5
    assert axis(0.0, 5.0, bins=2, sampling_ratio=0, max_samples=2)[2] == [True] * 2
    assert axis(3.0, 3.0, bins=2, sampling_ratio=0, max_samples=2)[2] == [False] * 2
    position = axis(0.0, 6.0, bins=2, sampling_ratio=0, max_samples=8)[0]
    assert [p[:3] for p in position] == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]


def test_more_than_a_cell_outside_reads_nothing():
    """From -1 to the length itself counts (torchvision), beyond does not."""
    _, inside, _ = axis(-1.5, 8.5, length=8, bins=10, sampling_ratio=1, max_samples=1)
    assert [i for (i,) in inside] == [True] * 10
    _, inside, _ = axis(-2.5, 9.5, length=8, bins=12, sampling_ratio=1, max_samples=1)
    assert [i for (i,) in inside] == [False] + [True] * 10 + [False]


def test_corners_are_sampled_and_a_single_bin_in_the_middle():
    low, high, length = jnp.array([0.0, 0.5]), jnp.array([1.0, 1.5]), jnp.array([5, 5])
    three = corner_samples(low, high, length, bins=3)
    assert three.position[..., 0].tolist() == [[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]
    assert three.inside[..., 0].tolist() == [[True, True, True], [True, True, False]]
    assert corner_samples(low, high, length, bins=1).position.ravel().tolist() == [2.0, 4.0]


@given(strategies.boxes(4, limit=50))
def test_the_grid_of_a_box_is_that_of_its_axes(boxes):
    """x1 and x2 make the columns, y1 and y2 the rows; boxes narrower than a cell are one wide where not aligned."""
    maps, one = Maps(*(jnp.full(4, v) for v in (60, 60, 0))), jnp.ones(4)
    options = dict(bins=2, scale_x=one, scale_y=one, sampling_ratio=1, max_samples=1)
    for aligned in (True, False):
        rows, columns = bin_grid(jnp.asarray(boxes), maps, aligned=aligned, **options)
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
    cells = np.concatenate([level.reshape(-1, 4) for level in levels])
    roi_levels = np.array([[2, 3, 2], [3, 3, 2]])
    maps = pyramid_maps(tuple(map(jnp.asarray, levels)), jnp.asarray(roi_levels))
    for height, width, start, level, image in zip(*maps, roi_levels.ravel(), [0, 0, 0, 1, 1, 1], strict=True):
        assert cells[start].tolist() == [level - 2, image, 0, 0]
        assert (height, width) == shapes[level - 2]
        assert cells[start + height * width - 1].tolist() == [level - 2, image, height - 1, width - 1]


def test_the_grid_of_a_pyramid_scales_boxes_to_their_maps():
    """A 64x32 image: on a map of 16x8 cells a box is a quarter as large; its corners for crop_and_resize are shares of
    the distance between the outermost centres, with the far edge taken off first.
    """
    box, maps = jnp.array([[8.0, 16.0, 24.0, 32.0]]), Maps(*jnp.array([[16], [8], [0]]))
    options = dict(image_size=(64, 32), bins=2, sampling_ratio=1, max_samples=1)
    rows, columns = pyramid_grid(box, maps, pooling="bins", far_edge=0, aligned=True, **options)
    assert rows.position.ravel().tolist() == [4.5, 6.5]
    assert columns.position.ravel().tolist() == [2.5, 4.5]
    rows, columns = pyramid_grid(box, maps, pooling="corners", far_edge=1, aligned=True, **options)
    np.testing.assert_allclose(rows.position.ravel(), np.array([16, 31]) / 63 * 15, rtol=1e-6)
    np.testing.assert_allclose(columns.position.ravel(), np.array([8, 23]) / 31 * 7, rtol=1e-6)
