"""Where the bins of a RoI are sampled: points per axis, in cells of its map (Mask R-CNN section 3).

The centre of cell i lies at i here, and at i + 0.5 in boxes. `aligned=True` takes off that half cell, so that a sample
at a centre reads exactly that cell (Detectron2); `aligned=False` does not, and makes every box at least one cell wide
(torchvision's default). A sample more than one cell outside the map reads 0, a nearer one is moved onto its border.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.roi.bilinear import AxisSamples, Maps
from maskrcnn_jax.roi.crop import corner_samples, quotient, rounded


def bin_samples(
    low: Float[Array, " r"], high: Float[Array, " r"], length: Int[Array, " r"], *, bins: int, sampling: Sampling
) -> AxisSamples:
    """Samples in the middles of s equal parts of each bin of boxes from `low` to `high`, in cells.

    s is `sampling_ratio`, or if that is 0 the size of a bin rounded up, at most `max_samples`.

    >>> rule = Sampling(sampling_ratio=2)
    >>> bin_samples(jnp.array([0.0]), jnp.array([4.0]), jnp.array([8]), bins=2, sampling=rule).position.tolist()
    [[[0.0, 1.0], [2.0, 3.0]]]
    """
    if sampling.aligned:
        low, high = low - 0.5, high - 0.5
    else:
        high = jnp.maximum(high, low + 1.0)
    size = quotient(high - low, bins)[:, None, None]
    most = sampling.sampling_ratio or sampling.max_samples
    count = most if sampling.sampling_ratio else jnp.clip(jnp.ceil(size), 0, most).astype(jnp.int32)
    sample, last = jnp.arange(most), jnp.maximum(count, 1) - 1
    steps = rounded((jnp.minimum(sample, last) + 0.5) * (size / (last + 1)))
    position = low[:, None, None] + rounded(jnp.arange(bins)[:, None] * size) + steps
    inside = (position >= -1.0) & (position <= length[:, None, None]) & (count > 0)
    share = jnp.where(sample <= last, 1.0 / (last + 1), 0.0)
    return AxisSamples(position, inside, jnp.broadcast_to(share, (len(low), 1, most))[:, 0])


@partial(jax.jit, static_argnames=("bins", "sampling"))
def sample_grid(
    boxes: Float[Array, "r 4"], maps: Maps, *, bins: int, sampling: Sampling
) -> tuple[AxisSamples, AxisSamples]:
    """Sampling points of each box on its map: (rows, columns). Boxes are in cells ("bins") or shares ("corners").

    A box 4 cells wide and 2 high, two bins per side with one sample each, minus half a cell:

    >>> box, rule = jnp.array([[0.0, 0.0, 4.0, 2.0]]), Sampling(sampling_ratio=1)
    >>> rows, columns = sample_grid(box, Maps.same(8, 8, 1), bins=2, sampling=rule)
    >>> columns.position.ravel().tolist(), rows.position.ravel().tolist()
    ([0.5, 2.5], [0.0, 1.0])
    """
    axis = corner_samples if sampling.kind == "corners" else partial(bin_samples, sampling=sampling)
    x1, y1, x2, y2 = rounded(boxes).T
    return axis(y1, y2, maps.height, bins=bins), axis(x1, x2, maps.width, bins=bins)


@partial(jax.jit, static_argnames=("image_size", "bins", "sampling", "far_edge"))
def pyramid_grid(
    levels: tuple[Float[Array, "b _ _ c"], ...],
    boxes: Float[Array, "b r 4"],
    roi_levels: Int[Array, "b r"],
    *,
    image_size: tuple[int, int],
    bins: int,
    sampling: Sampling,
    far_edge: int = 0,
) -> tuple[Maps, AxisSamples, AxisSamples]:
    """The map that each box of a batch is read from, and its sampling points: (maps, rows, columns), for all b * r.
    Arguments as in `align.pyramid_roi_align`, but `roi_levels` counts from 0.

    A box over the left half of an 8x8 image, on the second of two levels, of 4x4 cells with centres at 0 to 3:

    >>> levels, box = (jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 4, 4, 1))), jnp.array([[[0.0, 0.0, 4.0, 8.0]]])
    >>> maps, rows, columns = pyramid_grid(levels, box, jnp.array([[1]]), image_size=(8, 8), bins=2,
    ...     sampling=Sampling(sampling_ratio=1))
    >>> maps.start.tolist(), columns.position.ravel().tolist(), rows.position.ravel().tolist()
    ([64], [0.0, 1.0], [0.5, 2.5])
    """
    b, r, _ = boxes.shape
    sides = np.array([level.shape[1:3] for level in levels])
    cells = sides.prod(1)
    numbers = jnp.array([*sides.T, cells.cumsum() - cells])[:, roi_levels.reshape(-1)]
    maps = Maps(numbers[0], numbers[1], numbers[2] + np.repeat(np.arange(b), r) * cells.sum())
    boxes, (height, width) = boxes.reshape(-1, 4), image_size
    if sampling.kind == "corners":
        edge = jnp.array([0, 0, far_edge, far_edge], boxes.dtype)
        boxes = quotient(boxes - edge, jnp.array([width - far_edge, height - far_edge] * 2, boxes.dtype))
    else:
        boxes *= jnp.stack([maps.width / width, maps.height / height] * 2, -1).astype(boxes.dtype)
    return maps, *sample_grid(boxes, maps, bins=bins, sampling=sampling)
