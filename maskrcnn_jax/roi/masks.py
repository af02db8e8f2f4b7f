"""Pasting of a mask from its box into the pixels of the image (Mask R-CNN section 3.1, inference), on the host, and how
sure a mask is.

In NumPy, and only inside the box: image sizes vary, and compiling for each of them, or stacks of full-frame masks,
would cost far more than the two small matrix products.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped

from maskrcnn_jax import checks


def _interpolation(low: float, high: float, pixels: np.ndarray, cells: int, border: str) -> Float[np.ndarray, "n m"]:
    """Bilinear weights from `cells` equal cells between `low` and `high` to the centres of `pixels`."""
    position = (pixels + 0.5 - low) / max(high - low, 1e-6) * cells - 0.5
    if border == "edge":
        position = np.clip(position, 0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(cells)))


def paste_patch(
    mask: Shaped[np.ndarray, "m m"],
    box: Shaped[np.ndarray, " 4"],
    *,
    height: int,
    width: int,
    threshold: float = 0.5,
    border: str = "edge",
) -> tuple[Bool[np.ndarray, "ph pw"], int, int]:
    """The instance's pixels in its box: those whose centre lies in the box and where the bilinear value of the mask is
    `threshold` or more.

    Args:
        mask: probabilities (or 0 and 1) in equal cells over the box.
        box: `[x1, y1, x2, y2]` in pixels of the image; may extend beyond it.
        height: of the image, in pixels.
        width: of the image.
        threshold: 0 to 1.
        border: "edge" extends the outermost cells to the box's border; "zero" fades to 0 there, as in Detectron2.

    Returns:
        The part of the box inside the image, and its row and column there: (patch, top, left).

    Raises:
        ValueError: other shapes, a corner that is not finite, another `border`, or a threshold outside 0 to 1.
        TypeError: a side of the image that is not an integer.

    >>> patch, top, left = paste_patch(np.ones((2, 2)), np.array([1.0, 0.0, 3.0, 2.0]), height=4, width=4)
    >>> patch.tolist(), top, left
    ([[True, True], [True, True]], 0, 1)
    """
    mask, box = np.asarray(mask, np.float64), np.asarray(box)
    checks.shape("paste: mask", mask, "m m")
    checks.shape("paste: box", box, "4", remedy="give one box [x1, y1, x2, y2]")
    checks.pair("paste: the image's size", (height, width))
    checks.in_range("paste: threshold", threshold, 0, 1)
    checks.one_of("paste: border", border, ("edge", "zero"))
    x1, y1, x2, y2 = (float(v) for v in box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f"paste: box is {[x1, y1, x2, y2]}; give finite corners (of valid detections only)")
    # The first and last pixels whose centres lie in the box.
    left, right = max(math.ceil(x1 - 0.5), 0), min(math.ceil(x2 - 0.5), width)
    top, bottom = max(math.ceil(y1 - 0.5), 0), min(math.ceil(y2 - 0.5), height)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), bool), top, left
    rows = _interpolation(y1, y2, np.arange(top, bottom), mask.shape[0], border)
    columns = _interpolation(x1, x2, np.arange(left, right), mask.shape[1], border)
    return rows @ mask @ columns.T >= threshold, top, left


def paste(
    mask: Shaped[np.ndarray, "m m"],
    box: Shaped[np.ndarray, " 4"],
    *,
    height: int,
    width: int,
    threshold: float = 0.5,
    border: str = "edge",
) -> Bool[np.ndarray, "height width"]:
    """The mask of an instance in the whole image: `paste_patch` in a frame of False.

    Args:
        mask: probabilities (or 0 and 1) in equal cells over the box.
        box: `[x1, y1, x2, y2]` in pixels of the image; may extend beyond it.
        height: of the image, in pixels.
        width: of the image.
        threshold: 0 to 1; a pixel is set at this value or more.
        border: "edge" or "zero", as in `paste_patch`.

    Returns:
        The pixels of the instance.

    Raises:
        ValueError: as in `paste_patch`.
        TypeError: as in `paste_patch`.

    >>> paste(np.ones((2, 2)), np.array([1.0, 0.0, 3.0, 1.0]), height=2, width=4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    patch, top, left = paste_patch(mask, box, height=height, width=width, threshold=threshold, border=border)
    frame = np.zeros((height, width), bool)
    frame[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return frame


def maskness(masks: Float[np.ndarray, "*n m m"], *, threshold: float = 0.5) -> Float[np.ndarray, "*n"]:
    """How sure each mask is: the mean probability of the cells that belong to the object (Wang et al. 2020, "SOLOv2").

    A class score says what the box holds, not how well its outline is known. Multiplied by this, scores rank outlines:
    a mask that hesitates between one object and its neighbour is less than 1 over many cells.

    Args:
        masks: probabilities.
        threshold: 0 to 1; a cell belongs to the object at this value or more.

    Returns:
        Values from `threshold` to 1; 0 for a mask without such cells.

    Raises:
        ValueError: other shapes, or a threshold outside 0 to 1.

    >>> maskness(np.array([[[1.0, 0.8], [0.6, 0.1]], [[0.2, 0.1], [0.0, 0.4]]])).round(2).tolist()
    [0.8, 0.0]
    """
    masks = np.asarray(masks)
    checks.shape("maskness: masks", masks, "*n m m")
    checks.in_range("maskness: threshold", threshold, 0, 1)
    own = masks >= threshold
    return (masks * own).sum((-2, -1)) / np.maximum(own.sum((-2, -1)), 1)
