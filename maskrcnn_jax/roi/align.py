"""RoI Align: a feature grid of fixed size from any box, without rounding its coordinates (Mask R-CNN section 3).

As in Crystals 2021, figure 4: a RoI on a map is divided into bins (5x5 there) with four sampling points each; each
point is interpolated bilinearly from the four map cells around it, and the four values are reduced to one: their
maximum in the paper (section 2.4), their mean in the common implementations.

`grid.py` computes the points and `bilinear.py` reads maps there. Here are the two public ways in: for one map
(`roi_align`), and for a batch of boxes, each on its level of the pyramid (`pyramid_roi_align`).
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax import checks
from maskrcnn_jax.config import Sampling
from maskrcnn_jax.roi.bilinear import Maps, bilinear_pool
from maskrcnn_jax.roi.crop import crop_and_resize
from maskrcnn_jax.roi.grid import pyramid_grid, sample_grid
from maskrcnn_jax.roi.levels import assign_levels
from maskrcnn_jax.roi.separable import pool_separably

__all__ = ["assign_levels", "crop_and_resize", "pyramid_roi_align", "roi_align"]


def roi_align(
    features: Num[Array | np.ndarray, "h w c"],
    boxes: Num[Array | np.ndarray, "r 4"],
    *,
    output_size: int,
    spatial_scale: float | Float[ArrayLike, ""] = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
    reduce: Literal["mean", "max"] = "mean",
    max_samples: int = Sampling.max_samples,
) -> Float[Array, "r o o c"]:
    """Pool each box to o x o bins, o = `output_size`. Equals torchvision's `roi_align` for "mean".

    Args:
        features: one map, channels last.
        boxes: x1, y1, x2, y2 in pixels of the image.
        output_size: bins per side; static under `jit`, as all that follows but `spatial_scale`.
        spatial_scale: cells per pixel, 1 / stride, in (0, 1].
        sampling_ratio: samples per bin and side; 0, or torchvision's -1: a bin's size in cells, rounded up.
        aligned: take half a cell off the scaled boxes, see `grid.py`.
        reduce: "mean", or "max" as in Crystals 2021, section 2.4.
        max_samples: limit of the adaptive rule, for fixed shapes. Torchvision has none: raise it where boxes are
            larger than output_size * max_samples cells.

    Returns:
        Values of at least float32; bins outside the map are 0.

    Raises:
        ValueError: an argument of another shape, or out of range.
        TypeError: not an array of numbers, or boxes of 16 bits.

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
    features = checks.as_floats("roi_align: features", features, "h w c")
    boxes = checks.as_boxes("roi_align: boxes", boxes, "r 4")
    remedy = "give cells per pixel, 1 / stride"
    checks.in_range("roi_align: spatial_scale", spatial_scale, 0, 1, above=True, remedy=remedy)
    checks.whole("roi_align: sampling_ratio", sampling_ratio, least=-1)
    sampling = Sampling("bins", max(sampling_ratio, 0), aligned, reduce, max_samples)
    _check_options("roi_align", output_size, sampling)
    h, w, c = features.shape
    maps = Maps.same(h, w, boxes.shape[0])
    rows, columns = sample_grid(jnp.asarray(boxes) * spatial_scale, maps, bins=output_size, sampling=sampling)
    return bilinear_pool(features.reshape(-1, c), maps, rows, columns, reduce=reduce)


def pyramid_roi_align(
    levels: tuple[Num[Array | np.ndarray, "b _ _ c"], ...],
    boxes: Num[Array | np.ndarray, "b r 4"],
    *,
    roi_levels: Int[Array | np.ndarray, "b r"],
    image_size: tuple[int, int],
    output_size: int,
    sampling: Sampling,
    min_level: int = 2,
    far_edge: int = 0,
    kernels: str = "xla",
) -> Float[Array, "b r o o c"]:
    """Pool every box of a batch from its level of the pyramid, in one gather (adaptive means: `separable.py`).

    Args:
        levels: P2, P3, ... of all images, channels last.
        boxes: x1, y1, x2, y2 in pixels of their image.
        roi_levels: from `assign_levels`; those that are traced are clipped to the levels there are.
        image_size: (height, width) of the images, in pixels; static under `jit`, as all that follows.
        output_size: o, bins per side.
        sampling: `config.Sampling`; the kind "corners" is `crop_and_resize`.
        min_level: number of the first of `levels`.
        far_edge: pixels that "corners" takes off x2, y2 and the image's sides (Matterport: 1).
        kernels: as in `layers.Compute`.

    Returns:
        Values of at least float32; bins outside the map are 0.

    Raises:
        ValueError: an argument of another shape, or out of range, as a level that there is not.
        TypeError: not an array of numbers, or boxes of 16 bits.

    An 8x8 image with P2 all 2 and P3 all 3; the same box pooled from each:

    >>> levels = jnp.full((1, 2, 2, 1), 2.0), jnp.full((1, 1, 1, 1), 3.0)
    >>> box, options = jnp.array([[[1.0, 1.0, 7.0, 7.0]] * 2]), dict(image_size=(8, 8), output_size=1)
    >>> pyramid_roi_align(levels, box, roi_levels=jnp.array([[2, 3]]), sampling=Sampling(), **options).ravel().tolist()
    [2.0, 3.0]
    """
    name, boxes = "pyramid_roi_align", checks.as_boxes("pyramid_roi_align: boxes", boxes, "b r 4")
    b, r, _ = boxes.shape
    levels = tuple(_checked_level(f"{name}: levels[{i}]", level, b, image_size) for i, level in enumerate(levels))
    checks.kind(f"{name}: roi_levels", roi_levels, np.integer, f"{b} {r}")
    max_level = min_level + len(levels) - 1
    if b * r and not isinstance(roi_levels, Tracer):
        for level in (np.min(roi_levels), np.max(roi_levels)):
            checks.in_range(f"{name}: a level in roi_levels", level, min_level, max_level)
    _check_options(name, output_size, sampling)
    rule = dict(image_size=tuple(image_size), bins=output_size, sampling=sampling, far_edge=far_edge)
    indices = jnp.clip(roi_levels, min_level, max_level) - min_level
    maps, rows, columns = pyramid_grid(levels, boxes, indices, **rule)
    if sampling.kind == "bins" and sampling.sampling_ratio == 0 and sampling.reduce == "mean":
        return pool_separably(levels, indices, rows, columns)
    cells = jnp.concatenate([level.reshape(b, -1, level.shape[-1]) for level in levels], 1)
    options = dict(reduce=sampling.reduce, kernels=kernels)
    pooled = bilinear_pool(cells.reshape(-1, cells.shape[-1]), maps, rows, columns, **options)
    return pooled.reshape(b, r, *pooled.shape[1:])


def _check_options(function: str, output_size: int, sampling: Sampling) -> None:
    checks.whole(f"{function}: output_size", output_size, least=1)
    checks.one_of(f"{function}: kind", sampling.kind, ("bins", "corners"))
    checks.whole(f"{function}: sampling_ratio", sampling.sampling_ratio, least=0)
    checks.one_of(f"{function}: aligned", sampling.aligned, (True, False))
    checks.one_of(f"{function}: reduce", sampling.reduce, ("mean", "max"))
    checks.whole(f"{function}: max_samples", sampling.max_samples, least=1)


def _checked_level(place: str, level: Array | np.ndarray, b: int, image_size: tuple[int, int]) -> Array | np.ndarray:
    """Refuse a map whose rows and columns are not the image's over one stride, rounded up: one with channels first."""
    level = checks.as_floats(place, level, f"{b} h w c")
    checks.pair("pyramid_roi_align: image_size", image_size)
    sides = [(side, max(cells, 1)) for side, cells in zip(image_size, level.shape[1:3], strict=True)]
    least = max(side / cells for side, cells in sides)
    if any(least * (cells - 1) >= side for side, cells in sides):
        shape = f"[{b}, {image_size[0]} / stride, {image_size[1]} / stride, channels]"
        raise ValueError(f"{place} has shape {list(level.shape)}; give {shape}")
    return level
