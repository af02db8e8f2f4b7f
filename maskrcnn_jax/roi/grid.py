"""Sampling points of a RoI on its map: the grids of RoI Align and `crop_and_resize` (Mask R-CNN section 3).

They are computed per axis, in cells of the map, with the centre of cell i at i. `align.py` and `separable.py` read
features at these points.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import Sampling


class Maps(NamedTuple):
    """The map that each of r RoIs reads: `height` x `width` cells from row `start` of the flat list of cells."""

    height: Int[Array, " r"]
    width: Int[Array, " r"]
    start: Int[Array, " r"]


class AxisSamples(NamedTuple):
    """Sampling points of r RoIs along one axis: o bins with s samples each, in cells of the map."""

    position: Float[Array, "r o s"]
    inside: Bool[Array, "r o s"]  # False reads 0
    used: Bool[Array, "r s"]  # False: above the RoI's own number of samples


def _unfused(product: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The product, protected from being contracted with a sum into a fused multiply-add.

    XLA computes coordinates twice, for the cell and for the weight, and may contract only one of them. For a sample
    close to an integer the two could then be floored to different cells, and a wrong cell is read. Nothing is
    contracted across a maximum; `optimization_barrier` is removed before fusion on CPUs.
    """
    return jnp.maximum(product, jnp.finfo(product.dtype).min)


def bin_samples(
    low: Float[Array, " r"],
    high: Float[Array, " r"],
    length: Int[Array, " r"],
    *,
    bins: int,
    sampling_ratio: int,
    max_samples: int,
) -> AxisSamples:
    """Samples at the centres of s equal parts of each of `bins` bins between `low` and `high` (in cells).

    >>> grid = bin_samples(jnp.array([0.0]), jnp.array([4.0]), jnp.array([8]), bins=2, sampling_ratio=2, max_samples=2)
    >>> grid.position.tolist()
    [[[0.5, 1.5], [2.5, 3.5]]]
    """
    size = (high - low) / bins
    slots = sampling_ratio or max_samples
    if sampling_ratio:
        count = jnp.full(low.shape, sampling_ratio)
    else:
        count = jnp.clip(jnp.ceil(size), 0, max_samples).astype(jnp.int32)
    sample = jnp.arange(slots)
    steps = _unfused((sample + 0.5) * (size / jnp.maximum(count, 1))[:, None])
    position = low[:, None, None] + _unfused(jnp.arange(bins)[:, None] * size[:, None, None]) + steps[:, None, :]
    inside = (position >= -1.0) & (position <= length[:, None, None])
    return AxisSamples(position, inside, sample < count[:, None])


def corner_samples(
    low: Float[Array, " r"], high: Float[Array, " r"], length: Int[Array, " r"], *, bins: int
) -> AxisSamples:
    """One sample per bin, the first and the last on the box's borders; `low` and `high` relative to the centres of the
    map's first (0) and last (1) cells. A single bin samples the centre.

    >>> corner_samples(jnp.array([0.0]), jnp.array([0.5]), jnp.array([9]), bins=3).position.tolist()
    [[[0.0], [2.0], [4.0]]]
    """
    span = (length - 1).astype(low.dtype)
    if bins == 1:
        position = 0.5 * (low + high)[:, None] * span[:, None]
    else:
        step = (high - low) * span / (bins - 1)
        position = _unfused(low * span)[:, None] + _unfused(jnp.arange(bins) * step[:, None])
    position = position[..., None]
    inside = (position >= 0) & (position <= span[:, None, None])
    return AxisSamples(position, inside, jnp.ones((low.shape[0], 1), bool))


def bin_grid(
    boxes: Float[Array, "r 4"],
    maps: Maps,
    *,
    bins: int,
    scale_x: Float[Array, " r"],
    scale_y: Float[Array, " r"],
    sampling_ratio: int,
    aligned: bool,
    max_samples: int,
) -> tuple[AxisSamples, AxisSamples]:
    """Sampling points of each box on its map: (rows, columns).

    A box 8 pixels wide and 4 high at half scale, two bins per side with one sample each, minus half a cell:

    >>> maps, half = Maps(*jnp.array([[8], [8], [0]])), jnp.array([0.5])
    >>> rows, columns = bin_grid(jnp.array([[0.0, 0.0, 8.0, 4.0]]), maps, bins=2, scale_x=half, scale_y=half,
    ...     sampling_ratio=1, aligned=True, max_samples=1)
    >>> columns.position.ravel().tolist(), rows.position.ravel().tolist()
    ([0.5, 2.5], [0.0, 1.0])
    """
    offset = 0.5 if aligned else 0.0
    x1, x2 = (_unfused(boxes[:, i] * scale_x) - offset for i in (0, 2))
    y1, y2 = (_unfused(boxes[:, i] * scale_y) - offset for i in (1, 3))
    if not aligned:
        x2, y2 = jnp.maximum(x2, x1 + 1.0), jnp.maximum(y2, y1 + 1.0)
    options = dict(bins=bins, sampling_ratio=sampling_ratio, max_samples=max_samples)
    return bin_samples(y1, y2, maps.height, **options), bin_samples(x1, x2, maps.width, **options)


def pyramid_maps(
    levels: tuple[Float[Array, "b _ _ c"], ...], roi_levels: Int[Array, "b r"], *, min_level: int = 2
) -> Maps:
    """The map that each RoI of a batch reads, in the flat list of cells: level after level, each image after image.

    Two levels of 4 and 1 cells, two images; the last RoI is the second image's, on the coarse level:

    >>> levels = jnp.zeros((2, 2, 2, 1)), jnp.zeros((2, 1, 1, 1))
    >>> pyramid_maps(levels, jnp.array([[2, 3], [2, 3]])).start.tolist()
    [0, 8, 4, 9]
    """
    b, r = roi_levels.shape
    heights, widths = (jnp.array([level.shape[axis] for level in levels]) for axis in (1, 2))
    counts = [level.shape[1] * level.shape[2] for level in levels]
    firsts = jnp.array([b * sum(counts[:i]) for i in range(len(levels))])  # start of each level's first image
    level = (roi_levels - min_level).reshape(-1)
    image = jnp.repeat(jnp.arange(b), r)
    return Maps(heights[level], widths[level], firsts[level] + image * jnp.array(counts)[level])


def pyramid_grid(
    boxes: Float[Array, "n 4"],
    maps: Maps,
    *,
    image_size: tuple[int, int],
    bins: int,
    sampling: Sampling,
    far_edge: int = 0,
) -> tuple[AxisSamples, AxisSamples]:
    """Sampling points of each box on its own map, in cells: (rows, columns). `sampling` and `far_edge` as in
    `align.pyramid_roi_align`.

    A box over the left half of an 8x8 image, on a map of 4x4 cells, with centres at 0 to 3:

    >>> maps = Maps(*jnp.array([[4], [4], [0]]))
    >>> rows, columns = pyramid_grid(jnp.array([[0.0, 0.0, 4.0, 8.0]]), maps, image_size=(8, 8), bins=2,
    ...     sampling=Sampling(sampling_ratio=1))
    >>> columns.position.ravel().tolist(), rows.position.ravel().tolist()
    ([0.0, 1.0], [0.5, 2.5])
    """
    height, width = image_size
    if sampling.kind == "corners":
        edge = jnp.array([0, 0, far_edge, far_edge], boxes.dtype)
        boxes01 = (boxes - edge) / jnp.array([width - far_edge, height - far_edge] * 2, boxes.dtype)
        return (
            corner_samples(boxes01[:, 1], boxes01[:, 3], maps.height, bins=bins),
            corner_samples(boxes01[:, 0], boxes01[:, 2], maps.width, bins=bins),
        )
    return bin_grid(
        boxes,
        maps,
        bins=bins,
        scale_x=(maps.width / width).astype(boxes.dtype),
        scale_y=(maps.height / height).astype(boxes.dtype),
        sampling_ratio=sampling.sampling_ratio,
        aligned=sampling.aligned,
        max_samples=sampling.max_samples,
    )
