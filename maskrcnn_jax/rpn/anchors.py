"""Anchors: boxes of fixed sizes and shapes at every cell of P2..P6 (Faster R-CNN section 3.1.1; Crystals 2021, 2.3).

Computed in NumPy float64 and cast once: they are constants of the compiled program. The centre of cell i is at
i * stride, without a half-pixel offset, as in all three weight sources.
"""

import numpy as np
from jaxtyping import Float

from maskrcnn_jax import checks


def base_anchors(size: float, ratios: tuple[float, ...], *, rounded: bool = False) -> Float[np.ndarray, "ratios 4"]:
    """Boxes of area size^2 centred on the origin: `size / sqrt(ratio)` wide and `size * sqrt(ratio)` high.

    Args:
        size: side of the square anchor, in pixels.
        ratios: height / width of each box.
        rounded: corners on whole pixels, as in torchvision.

    Returns:
        A box `[x1, y1, x2, y2]` for each ratio, float64.

    Raises:
        ValueError: a size or ratio that is not above 0.

    >>> base_anchors(8, (4.0, 1.0)).tolist()
    [[-2.0, -8.0, 2.0, 8.0], [-4.0, -4.0, 4.0, 4.0]]
    """
    checks.in_range("base_anchors: size", size, 0, above=True)
    for ratio in ratios:
        checks.in_range("base_anchors: one of ratios", ratio, 0, above=True)
    roots = np.sqrt(np.asarray(ratios, np.float64))
    half = 0.5 * size * np.stack([1.0 / roots, roots], 1)
    boxes = np.concatenate([-half, half], 1)
    return np.round(boxes) if rounded else boxes  # np.round and torch.round both round half to even


def pyramid_anchors(
    image_size: tuple[int, int],
    *,
    strides: tuple[int, ...],
    sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    rounded: bool = False,
) -> Float[np.ndarray, "a 4"]:
    """All anchors of an image. A level of stride s has ceil(height / s) x ceil(width / s) cells, and each cell a box of
    the level's size for every ratio.

    Args:
        image_size: (height, width) in pixels. Everything here is static under `jit`.
        strides: of the levels, in pixels, finest first.
        sizes: side of the square anchor of each level, in pixels.
        ratios: height / width of the boxes at each cell.
        rounded: corners on whole pixels, as in torchvision.

    Returns:
        Boxes `[x1, y1, x2, y2]` in pixels, float32, ordered by level, row, column, ratio; they may extend beyond the
        image.

    Raises:
        ValueError: not one size for each stride, or a side, stride, size or ratio that is not above 0.
        TypeError: sides or strides that are not integers.

    A map of one row and two columns, one box a cell:

    >>> pyramid_anchors((4, 8), strides=(4,), sizes=(8,), ratios=(1.0,)).tolist()
    [[-4.0, -4.0, 4.0, 4.0], [0.0, -4.0, 8.0, 4.0]]
    """
    checks.pair("pyramid_anchors: image_size", image_size)
    if len(strides) != len(sizes):
        raise ValueError(
            f"pyramid_anchors: {len(strides)} strides but {len(sizes)} sizes; give one anchor size for each level"
        )
    levels = []
    for stride, size in zip(strides, sizes, strict=True):
        checks.whole("pyramid_anchors: one of strides", stride, least=1)
        rows, columns = (-(-side // stride) for side in image_size)
        x, y = np.meshgrid(np.arange(columns) * float(stride), np.arange(rows) * float(stride))
        centres = np.stack([x, y, x, y], -1)
        levels.append((centres[:, :, None] + base_anchors(size, ratios, rounded=rounded)).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)
