"""Anchors: boxes of fixed sizes and shapes at every cell of P2..P6 (Faster R-CNN section 3.1.1; Crystals 2021, 2.3).

Computed in NumPy float64 and cast once: they are constants of the compiled program. The centre of cell i is at
i * stride, without a half-pixel offset, as in all three weight sources.
"""

import numpy as np
from jaxtyping import Float


def base_anchors(size: float, ratios: tuple[float, ...], *, rounded: bool = False) -> Float[np.ndarray, "ratios 4"]:
    """Boxes of area size^2 centred on the origin; ratio = height / width.

    >>> base_anchors(8, (4.0, 1.0)).tolist()
    [[-2.0, -8.0, 2.0, 8.0], [-4.0, -4.0, 4.0, 4.0]]
    """
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
    """All anchors of an image of (height, width) pixels, ordered by level, row, column, ratio; float32.

    One size per level; a level of stride s has ceil(height / s) x ceil(width / s) cells. Anchors may extend beyond
    the image. Raises ValueError unless there is one size per stride.

    >>> pyramid_anchors((4, 8), strides=(4,), sizes=(8,), ratios=(1.0,)).tolist()
    [[-4.0, -4.0, 4.0, 4.0], [0.0, -4.0, 8.0, 4.0]]
    """
    if len(strides) != len(sizes):
        raise ValueError(f"{len(strides)} strides but {len(sizes)} sizes: give one anchor size per level")
    levels = []
    for stride, size in zip(strides, sizes, strict=True):
        rows, columns = (-(-side // stride) for side in image_size)
        x, y = np.meshgrid(np.arange(columns) * float(stride), np.arange(rows) * float(stride))
        centres = np.stack([x, y, x, y], -1)
        levels.append((centres[:, :, None] + base_anchors(size, ratios, rounded=rounded)).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)
