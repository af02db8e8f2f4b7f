"""Letterbox: fit an image of any size into one fixed size, and map boxes to it and back.

The network compiles once per image size, so every image is scaled to fit, keeping its aspect ratio, and centred on
black (Matterport's "square" mode; the paper trains at 512 x 512). NumPy on the host, before the network.

Two ways to resample:

- `antialias=True`, the default: a side that shrinks is averaged by area, so that thin needles fade instead of vanishing
  between samples; a side that grows is interpolated linearly, edge pixels repeated. Integers are rounded.
- `antialias=False`, Matterport's rule (scikit-image's `resize`, order 1), for networks trained that way: linear
  interpolation between the two nearest pixels however much the image shrinks; samples outside read 0, which darkens the
  border when growing; the result is clipped to the image's own range, and integers are truncated. (Where the exact
  result is an integer, scikit-image's rounding errors may truncate it to one less; this implementation does not.)

Both are separable: one matrix for the rows and one for the columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Shaped

from maskrcnn_jax import checks


class Letterbox(NamedTuple):
    """Position of an image in its letterbox. Boxes are continuous pixels `[x1, y1, x2, y2]`, float64 here.

    The resized image has whole pixels, so the ratio `resized / original` differs slightly from `scale` and between the
    two axes. Boxes map by this ratio: the corners of the image map exactly onto the corners of the window.

    Attributes:
        scale: `min(size / original)` over the two sides, before rounding.
        offset: (x, y) of the image's top-left corner in the letterbox, whole pixels.
        original: (height, width) of the image.
        resized: (height, width) of the image inside the letterbox: `original * scale` rounded, at least 1.
        size: (height, width) of the letterbox.

    An image 20 pixels wide and 10 high in a square of 40: doubled, with 10 rows of padding above and below.

    >>> box = fit(10, 20, 40)
    >>> box.window.tolist(), box.to_letterbox(np.array([[1, 2, 3, 4]])).tolist()
    ([0.0, 10.0, 40.0, 30.0], [[2.0, 14.0, 6.0, 18.0]])
    >>> box.to_original(np.array([[2, 14, 6, 18]])).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """

    scale: float
    offset: tuple[int, int]
    original: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]

    @property
    def ratio(self) -> tuple[float, float]:
        """(x, y) letterbox pixels per original pixel."""
        return self.resized[1] / self.original[1], self.resized[0] / self.original[0]

    @property
    def window(self) -> Float64[np.ndarray, "4"]:
        """The part of the letterbox that is not padding, as a box in letterbox pixels."""
        x, y = self.offset
        return np.array([x, y, x + self.resized[1], y + self.resized[0]], np.float64)

    def to_letterbox(self, boxes: Shaped[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 4"]:
        """Map boxes from pixels of the original image to pixels of the letterbox: `box * ratio + offset`."""
        boxes = np.asarray(boxes, np.float64)
        checks.shape("to_letterbox: boxes", boxes, "*n 4")
        return boxes * np.tile(self.ratio, 2) + np.tile(self.offset, 2)

    def to_original(self, boxes: Shaped[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 4"]:
        """Map boxes from pixels of the letterbox to pixels of the original image; not clipped to it."""
        boxes = np.asarray(boxes, np.float64)
        checks.shape("to_original: boxes", boxes, "*n 4")
        return (boxes - np.tile(self.offset, 2)) / np.tile(self.ratio, 2)


def _area_matrix(old: int, new: int) -> Float64[np.ndarray, "new old"]:
    """Each new pixel is the mean of the `old / new` old pixels that it covers, the outermost ones in part."""
    edges = np.arange(new + 1) * (old / new)
    pixel = np.arange(old)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.maximum(covered, 0) * (new / old)


def _linear_matrix(old: int, new: int, *, repeat_edges: bool) -> Float64[np.ndarray, "new old"]:
    """Each new pixel is interpolated between the two old pixels whose centres are nearest to its own centre.

    Without `repeat_edges`, positions beyond the outermost centres have only one neighbour; the other reads 0.
    """
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if repeat_edges:
        centre = np.clip(centre, 0, old - 1)
    return np.maximum(1 - np.abs(centre[:, None] - np.arange(old)), 0)


def _matrix(old: int, new: int, antialias: bool) -> Float64[np.ndarray, "new old"]:
    return _area_matrix(old, new) if antialias and new < old else _linear_matrix(old, new, repeat_edges=antialias)


def _resample(image: Shaped[np.ndarray, "h w *c"], new: tuple[int, int], antialias: bool) -> np.ndarray:
    if new == image.shape[:2]:
        return image
    rows, columns = (_matrix(old, side, antialias) for old, side in zip(image.shape[:2], new, strict=True))
    flat = image.reshape(*image.shape[:2], -1).astype(np.float64)
    resampled = np.matmul(columns, np.tensordot(rows, flat, axes=1)).reshape(*new, *image.shape[2:])
    resampled = np.clip(resampled, image.min(), image.max())
    if np.issubdtype(image.dtype, np.integer):
        # Sums of linear weights may be up to 1e-13 below an integer: 1e-9 keeps those from being truncated.
        resampled = np.rint(resampled) if antialias else np.trunc(resampled + 1e-9)
    return resampled.astype(image.dtype)


def fit(height: int, width: int, size: int | tuple[int, int]) -> Letterbox:
    """Compute a letterbox from sizes alone.

    Args:
        height: of the image, in pixels.
        width: of the image.
        size: side of the square letterbox, or its (height, width).

    Returns:
        The `Letterbox`. Of an odd padding, the smaller half is at the top and on the left.

    Raises:
        ValueError: a side below 1.
        TypeError: a size that is not an integer or two.

    >>> fit(300, 190, 128)
    Letterbox(scale=0.4266666666666667, offset=(23, 0), original=(300, 190), resized=(128, 81), size=(128, 128))
    """
    checks.pair("letterbox: the image's size", (height, width))
    both = (size, size) if isinstance(size, int | np.integer) else size
    checks.pair("letterbox: size", both)
    tall, wide = both
    scale = min(tall / height, wide / width)
    # Python's round, half to even, as in Matterport; limited for extreme aspect ratios (1 x 5000).
    new_height = min(max(round(height * scale), 1), tall)
    new_width = min(max(round(width * scale), 1), wide)
    offset = ((wide - new_width) // 2, (tall - new_height) // 2)
    return Letterbox(scale, offset, (height, width), (new_height, new_width), (tall, wide))


def letterbox(
    image: Shaped[np.ndarray, "h w *c"],
    size: int | tuple[int, int],
    *,
    antialias: bool = True,
    fill: float | Float[np.ndarray, " c"] = 0,
    resize: Callable[[Shaped[np.ndarray, "h w *c"], tuple[int, int]], Shaped[np.ndarray, "tall wide *c"]] | None = None,
) -> tuple[Shaped[np.ndarray, "tall wide *c"], Letterbox]:
    """Scale an image to fit into `size`, up or down, and centre it on `fill`.

    Args:
        image: [h, w, 3], any value range; [h, w] and other channel counts work as well. The dtype does not change.
        size: side of the square, or (height, width).
        antialias: see the module docstring; False is Matterport's rule.
        fill: value of the padding, one for all channels or one per channel, in the range of the image.
        resize: `(image, (new_height, new_width)) -> image`, a replacement such as OpenCV's in input workers.

    Returns:
        The letterboxed image, and the position of the original in it.

    Raises:
        ValueError: an image of another rank or without pixels, a side below 1, a `fill` for other channels, or a
            `resize` that returned another size.
        TypeError: a size that is not an integer or two.

    An image of 1 x 2 pixels in a 2 x 2 letterbox: it fits without scaling, the padding goes below.

    >>> image, box = letterbox(np.full((1, 2, 1), 9, np.uint8), 2)
    >>> image[..., 0].tolist(), box.window.tolist()
    ([[9, 9], [0, 0]], [0.0, 0.0, 2.0, 1.0])
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"letterbox: image has shape {list(image.shape)}; give one image [h, w, channels] or [h, w]")
    if np.shape(fill) not in ((), image.shape[2:]):
        raise ValueError(f"letterbox: fill is {fill}; give one number, or one for each channel")
    box = fit(image.shape[0], image.shape[1], size)
    resized: Any = resize(image, box.resized) if resize else _resample(image, box.resized, antialias)
    if resized.shape[:2] != box.resized:
        raise ValueError(f"letterbox: resize returned {resized.shape[:2]} (height, width); return {box.resized}")
    (x, y), (new_height, new_width) = box.offset, box.resized
    canvas = np.empty((*box.size, *image.shape[2:]), image.dtype)
    canvas[...] = fill
    # OpenCV drops a last axis of length 1; the reshape restores it.
    canvas[y : y + new_height, x : x + new_width] = resized.reshape(*box.resized, *image.shape[2:])
    return canvas, box
