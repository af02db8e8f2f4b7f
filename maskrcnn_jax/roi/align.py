"""RoI Align: a feature grid of fixed size from any box, without rounding its coordinates (Mask R-CNN section 3).

As in Crystals 2021, figure 4: a RoI on a map is divided into bins (5x5 there) with four sampling points each; each
point is interpolated bilinearly from the four map cells around it, and the four values are reduced to one: their
maximum in the paper (section 2.4), their mean in the common implementations.

`grid.py` computes the sampling points. Here, from top to bottom: one axis (the two cells next to each point), one map
(`roi_align`, `crop_and_resize`), the pyramid (`assign_levels`, `pyramid_roi_align`). All of them gather from a flat
list of cells [n, c], to which the maps of all levels and images are concatenated. So a batch needs no `vmap`, whose
batched scatter-add in the gradient is slower than one with the image's offset folded into the index.

Conventions: map cell i has its centre at i + 0.5 in cells. `aligned=True` subtracts half a cell from the scaled box, so
that a sample at a centre reads exactly that cell (Detectron2); `aligned=False` does not, and makes every box at least
one cell wide (torchvision's default). Samples more than one cell outside the map read 0, nearer ones are moved onto its
border. `crop_and_resize` is TensorFlow's: one sample per bin, the outermost on the box's borders, 0 outside.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import Sampling
from maskrcnn_jax.kernels.rows import weighted_rows
from maskrcnn_jax.roi.grid import AxisSamples, Maps, bin_grid, corner_samples, pyramid_grid, pyramid_maps
from maskrcnn_jax.roi.separable import mean_weights, pool_separably

ADAPTIVE_LIMIT = 8  # maximum of samples per bin and side for sampling_ratio = 0, which asks for ceil(size / bins)


def _neighbours(samples: AxisSamples, length: Int[Array, " r"]):
    """The two cells next to each sample, and their weights: arrays [r, o, s, 2]."""
    last = (length - 1)[:, None, None]
    position = jnp.clip(samples.position, 0.0, last.astype(samples.position.dtype))
    # Clipped again as an integer: a NaN must not give an index outside the map.
    below = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, last)
    fraction = position - below
    weight = jnp.stack([1.0 - fraction, fraction], -1) * (samples.inside & samples.used[:, None, :])[..., None]
    return jnp.stack([below, jnp.minimum(below + 1, last)], -1), weight


def _positions_and_weights(samples: AxisSamples, b: int) -> tuple[Float[Array, "b r o s"], Float[Array, "b r o s"]]:
    """Positions, and each sample's weight in its bin's mean along this axis, with a batch dimension."""
    shape = (b, samples.position.shape[0] // b, *samples.position.shape[1:]) if b else (0, *samples.position.shape)
    return samples.position.reshape(shape), mean_weights(samples).reshape(shape)


def _gather(
    cells: Float[Array, "n c"], rows: AxisSamples, columns: AxisSamples, maps: Maps, reduce: str
) -> Float[Array, "r o o c"]:
    """Interpolate all samples and reduce over each bin. Weights and sums are float32 for any dtype of `cells`: the
    gradient is a scatter-add, which is inexact and slow in bfloat16.
    """
    y, weight_y = _neighbours(rows, maps.height)
    x, weight_x = _neighbours(columns, maps.width)
    r, o, s = rows.position.shape
    t = columns.position.shape[2]
    # [s, 2, t, 2, r, o, o]: sample and neighbour along rows, along columns, then the bins.
    y, weight_y = (a.transpose(2, 3, 0, 1)[:, :, None, None, :, :, None] for a in (y, weight_y))
    x, weight_x = (a.transpose(2, 3, 0, 1)[None, None, :, :, :, None, :] for a in (x, weight_x))
    start, width = (a[:, None, None] for a in (maps.start, maps.width))
    index, weight = start + y * width + x, weight_y * weight_x
    used = rows.used[:, :, None] & columns.used[:, None, :]
    shape = (r, o, o, cells.shape[1])
    if reduce == "max":
        # The four neighbours of each sample, then the maximum over the samples.
        index, weight = (a.swapaxes(1, 2).reshape(s * t, 4, r * o * o) for a in (index, weight))

        def larger(largest: Array, sample: tuple[Array, Array, Array]) -> tuple[Array, None]:
            index, weight, sample_used = sample
            values = jnp.where(sample_used, weighted_rows(cells, index, weight).reshape(shape), -jnp.inf)
            return jnp.maximum(largest, values), None

        used_samples = used.reshape(r, s * t).T[..., None, None, None]
        lowest = jnp.full(shape, -jnp.inf, jnp.float32)
        largest, _ = jax.lax.scan(larger, lowest, (index, weight, used_samples), unroll=4)
        return jnp.where(used.any((1, 2))[:, None, None, None], largest, 0.0)
    index, weight = (a.reshape(4 * s * t, r * o * o) for a in (index, weight))
    total = weighted_rows(cells, index, weight).reshape(shape)
    return total / jnp.maximum(used.sum((1, 2)), 1)[:, None, None, None]


def _single_map(features: Float[Array, "h w c"], r: int) -> tuple[Float[Array, "n c"], Maps]:
    h, w, c = features.shape
    return features.reshape(-1, c), Maps(jnp.full(r, h), jnp.full(r, w), jnp.zeros(r, jnp.int32))


def align_cells(
    cells: Float[Array, "n c"],
    boxes: Float[Array, "r 4"],
    maps: Maps,
    *,
    output_size: int,
    scale_x: Float[Array, " r"],
    scale_y: Float[Array, " r"],
    sampling_ratio: int,
    aligned: bool,
    reduce: str,
    max_samples: int,
) -> Float[Array, "r o o c"]:
    """RoI Align of boxes that read from different maps in one flat list of cells.

    Two maps of 2x2 cells, all 1 and all 5; the same box read from each:

    >>> cells = jnp.array([1.0, 1, 1, 1, 5, 5, 5, 5])[:, None]
    >>> maps = Maps(height=jnp.array([2, 2]), width=jnp.array([2, 2]), start=jnp.array([0, 4]))
    >>> box, one = jnp.array([[0.0, 0.0, 2.0, 2.0]] * 2), jnp.ones(2)
    >>> align_cells(cells, box, maps, output_size=1, scale_x=one, scale_y=one, sampling_ratio=2, aligned=True,
    ...     reduce="mean", max_samples=2).ravel().tolist()
    [1.0, 5.0]
    """
    rows, columns = bin_grid(
        boxes,
        maps,
        bins=output_size,
        scale_x=scale_x,
        scale_y=scale_y,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_samples=max_samples,
    )
    return _gather(cells, rows, columns, maps, reduce)


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "r 4"],
    *,
    output_size: int,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
    reduce: str = "mean",
    max_samples: int = ADAPTIVE_LIMIT,
) -> Float[Array, "r o o c"]:
    """Pool each box to o x o bins, o = `output_size`. Equals torchvision's `roi_align` for "mean".

    Args:
        features: one map.
        boxes: in pixels of the image.
        output_size: bins per side.
        spatial_scale: cells per pixel (1 / stride).
        sampling_ratio: samples per bin and side; 0 takes ceil(bin size), at most `max_samples` (torchvision has no such
            limit: raise it where boxes are larger than output_size * max_samples cells).
        aligned: subtract half a cell, see the module docstring.
        reduce: "mean", or "max" as in Crystals 2021, section 2.4.
        max_samples: limit of the adaptive rule, needed for fixed shapes.

    On the ramp f(y, x) = x, a box over the cells 1..3 of five gives the mean x of each bin's samples minus half a cell:

    >>> ramp = jnp.broadcast_to(jnp.arange(5.0), (5, 5))[..., None]
    >>> roi_align(ramp, jnp.array([[1.0, 1.0, 3.0, 3.0]]), output_size=2)[0, 0, :, 0].tolist()
    [1.0, 2.0]

    5x5 bins with points at a quarter and three quarters, as in Crystals 2021, figure 4; the maximum takes the latter,
    of which the last lie beyond the last cell's centre and are moved onto it:

    >>> box = jnp.array([[0.5, 0.5, 5.5, 5.5]])
    >>> roi_align(ramp, box, output_size=5, reduce="max")[0, 0, :, 0].tolist()
    [0.75, 1.75, 2.75, 3.75, 4.0]
    """
    cells, maps = _single_map(features, boxes.shape[0])
    scale = jnp.full(boxes.shape[0], spatial_scale, boxes.dtype)
    return align_cells(
        cells,
        boxes,
        maps,
        output_size=output_size,
        scale_x=scale,
        scale_y=scale,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        reduce=reduce,
        max_samples=max_samples,
    )


def crop_and_resize(
    features: Float[Array, "h w c"], boxes01: Float[Array, "r 4"], *, output_size: int
) -> Float[Array, "r o o c"]:
    """TensorFlow's `tf.image.crop_and_resize`, bilinear, as used by Matterport.

    `boxes01` are x1, y1, x2, y2 relative to the centres of the map's first (0) and last (1) cells. A flipped box gives
    a flipped crop; samples outside read 0.

    >>> ramp = jnp.broadcast_to(jnp.arange(5.0), (5, 5))[..., None]
    >>> crop_and_resize(ramp, jnp.array([[0.0, 0.0, 0.5, 1.0]]), output_size=3)[0, 0, :, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    cells, maps = _single_map(features, boxes01.shape[0])
    return crop_cells(cells, boxes01, maps, output_size=output_size)


def crop_cells(
    cells: Float[Array, "n c"], boxes01: Float[Array, "r 4"], maps: Maps, *, output_size: int
) -> Float[Array, "r o o c"]:
    """`crop_and_resize` of boxes that read from different maps in one flat list of cells.

    A map of two cells, 1 and 3, in one row, and a map of one cell, 7; the whole of each with two samples per side:

    >>> cells = jnp.array([1.0, 3.0, 7.0])[:, None]
    >>> maps = Maps(height=jnp.array([1, 1]), width=jnp.array([2, 1]), start=jnp.array([0, 2]))
    >>> crop_cells(cells, jnp.array([[0.0, 0.0, 1.0, 1.0]] * 2), maps, output_size=2)[:, 0, :, 0].tolist()
    [[1.0, 3.0], [7.0, 7.0]]
    """
    rows = corner_samples(boxes01[:, 1], boxes01[:, 3], maps.height, bins=output_size)
    columns = corner_samples(boxes01[:, 0], boxes01[:, 2], maps.width, bins=output_size)
    return _gather(cells, rows, columns, maps, "mean")


def assign_levels(
    boxes: Float[Array, "*r 4"],
    *,
    min_level: int = 2,
    max_level: int = 5,
    canonical_size: float = 224,
    canonical_level: int = 4,
    rounding: str = "floor",
    epsilon: float = 0.0,
) -> Int[Array, "*r"]:
    """The pyramid level a RoI is pooled from (FPN eq. 1): canonical_level + log2(sqrt(w h) / canonical_size), floored
    or rounded, clipped to [min_level, max_level]. `epsilon` is added to the logarithm, as in the weight sources. A box
    of no area gets the finest level.

    >>> assign_levels(jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 112.0, 112.0]])).tolist()
    [4, 2, 3]
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    size = jnp.sqrt(sides[..., 0] * sides[..., 1])
    level = canonical_level + jnp.log2(jnp.maximum(size, 1e-6) / canonical_size) + epsilon
    level = jnp.floor(level) if rounding == "floor" else jnp.round(level)
    return jnp.clip(level, min_level, max_level).astype(jnp.int32)


def pyramid_roi_align(
    levels: tuple[Float[Array, "b _ _ c"], ...],
    boxes: Float[Array, "b r 4"],
    *,
    roi_levels: Int[Array, "b r"],
    image_size: tuple[int, int],
    output_size: int,
    sampling: Sampling,
    min_level: int = 2,
    far_edge: int = 0,
) -> Float[Array, "b r o o c"]:
    """Pool every box of a batch from its assigned level, in one gather (adaptive means: `separable.py`).

    `levels` are P2, P3, ... of all images; `roi_levels` (from `assign_levels`) has `min_level` for the first. The kind
    "bins" is RoI Align, at the scale of level size / image size; "corners" is `crop_and_resize` with boxes divided by
    (image side - far_edge), after `far_edge` is subtracted from x2 and y2.

    An 8x8 image with P2 all 2 and P3 all 3; the same box pooled from each:

    >>> levels = jnp.full((1, 2, 2, 1), 2.0), jnp.full((1, 1, 1, 1), 3.0)
    >>> box, options = jnp.array([[[1.0, 1.0, 7.0, 7.0]] * 2]), dict(image_size=(8, 8), output_size=1)
    >>> pyramid_roi_align(levels, box, roi_levels=jnp.array([[2, 3]]), sampling=Sampling(), **options).ravel().tolist()
    [2.0, 3.0]
    """
    b, r, _ = boxes.shape
    c = levels[0].shape[-1]
    maps = pyramid_maps(levels, roi_levels, min_level=min_level)
    rows, columns = pyramid_grid(
        boxes.reshape(-1, 4),
        maps,
        image_size=image_size,
        bins=output_size,
        sampling=sampling,
        far_edge=far_edge,
    )
    if sampling.kind == "bins" and sampling.sampling_ratio == 0 and sampling.reduce == "mean":
        return pool_separably(
            levels, roi_levels - min_level, _positions_and_weights(rows, b), _positions_and_weights(columns, b)
        )
    cells = jnp.concatenate([level.reshape(-1, c) for level in levels])
    pooled = _gather(cells, rows, columns, maps, "mean" if sampling.kind == "corners" else sampling.reduce)
    return pooled.reshape(b, r, output_size, output_size, c)
