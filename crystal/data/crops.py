"""What a training example shows of a photograph: a random part of it at a random zoom.

A network that only ever sees whole photographs learns little from objects that shrink to a few pixels in them, and
nothing about tiles. So an example is a crop at a random zoom (large-scale jitter: Ghiasi et al. 2021, "Simple
Copy-Paste"): at zoom 1 the whole image, at zoom z a part of it in which objects come z times larger, of the size that
tiles of that zoom have in prediction (`maskrcnn_jax.image.tiles`). Of an object that the crop cuts, the visible part is
the object, or a region to ignore where that is little. Runs in input workers: no JAX.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from crystal.data.dataset import Record
from maskrcnn_jax.image.letterbox import fit
from maskrcnn_jax.image.tiles import ENLARGED, view_size

WITH_OBJECT = 0.75  # of the crops are drawn around an object, if there is one small enough; the others anywhere
SHOWN = (1 / 12, 1 / 2)  # size of that object, square root of its box's area, as a share of the view's
LEAST_VISIBLE = 0.25  # share of an object; below it, what is visible is ignored
SMALL = 25  # per cent of the objects count as small: the zooms are chosen for the largest of them


class Crop(NamedTuple):
    """A part of an image in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int


def zoom_range(records: Sequence[Record], size: tuple[int, int], sizes: Sequence[float]) -> tuple[float, float]:
    """From the whole image to where small objects have a size that anchors reach well.

    That size lies between the second smallest and the third smallest anchors. Beyond the resolution of the images
    nothing more is to be seen, so there the range ends.

    Args:
        records: images with their objects.
        size: (height, width) of the network's input.
        sizes: of the anchors, in pixels of that input.

    Returns:
        The least and the largest zoom; (1, 1) where there are no objects or none is small.
    """
    sides, limits = [], []
    for record in records:
        scale = fit(record.height, record.width, size).scale
        boxes = np.array([i.box for i in record.instances if not i.crowd]).reshape(-1, 4)
        sides.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) * scale)
        limits.append(ENLARGED / scale)
    sides = np.concatenate([np.zeros(0), *sides])
    if not len(sides):
        return 1.0, 1.0
    wanted = np.sqrt(np.prod(sorted(sizes)[1:3]))
    most = min(wanted / np.percentile(sides, SMALL), float(np.median(limits)))
    return 1.0, round(max(float(most), 1.0), 2)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Drawn evenly on a logarithmic scale."""
    return low * (high / low) ** rng.random()


def draw_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    size: tuple[int, int],
    zooms: tuple[float, float],
    boxes: Float[np.ndarray, "n 4"],
) -> Crop:
    """A crop of an image of this size.

    WITH_OBJECT of the crops hold the centre of an object, at a zoom that gives it a size drawn from SHOWN, as far as
    the zooms allow; the others lie anywhere, at any zoom. Sizes and zooms are drawn evenly on a logarithmic scale.
    Objects that fill more than SHOWN of the whole image, such as a drop, need no crop around them: an image that has
    none but these shows its parts at all zooms, so that a network also learns what close views hold that is no object.

    Args:
        rng: its state is advanced.
        height: of the image, in pixels.
        width: of the image.
        size: (height, width) of the network's input.
        zooms: least and largest.
        boxes: of the objects, in pixels of the image.
    """
    zoom, centre = _between(rng, *zooms), None
    scale = fit(height, width, size).scale / np.sqrt(size[0] * size[1])
    shares = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) * scale  # of the whole image's view
    small = np.flatnonzero(shares <= SHOWN[1])
    if len(small) and rng.random() < WITH_OBJECT:
        chosen = small[rng.integers(len(small))]
        centre = (boxes[chosen, :2] + boxes[chosen, 2:]) / 2
        zoom = min(max(_between(rng, *SHOWN) / shares[chosen], zooms[0]), zooms[1])
    tall, wide = view_size(height, width, size, zoom)
    spare = np.array([width - wide, height - tall])
    first, last = np.zeros(2), spare.astype(float)
    if centre is not None:
        first = np.clip(np.ceil(centre - (wide, tall)), 0, spare)
        last = np.clip(np.floor(centre), 0, spare)
    left, top = (first + np.floor(rng.random(2) * (last - first + 1))).astype(int).tolist()
    return Crop(left, top, left + wide, top + tall)


def visible_part(
    box: Float[np.ndarray, " 4"], mask: UInt8[np.ndarray, "m m"], crop: Crop
) -> tuple[Float[np.ndarray, " 4"], UInt8[np.ndarray, "m m"], float]:
    """What a crop shows of an object that it cuts.

    Args:
        box: of the object, in pixels of the image.
        mask: 0 or 1, relative to the box.
        crop: the part of the image.

    Returns:
        The box around the visible part, in pixels of the image; the mask relative to it; the share of the object's
        area that is visible, 0 if it is none.

    The left half of a square is visible, and within it the lower half is the object's:

    >>> mask = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], np.uint8)
    >>> box, mask, share = visible_part(np.array([10.0, 0, 18, 8]), mask, Crop(0, 0, 14, 20))
    >>> box.tolist(), int(mask.min()), round(share, 2)
    ([10.0, 4.0, 14.0, 8.0], 1, 0.33)
    """
    cells = mask.shape[0]
    corner, cell = box[:2], (box[2:] - box[:2]) / cells
    # Cells count as visible by their centres.
    first = np.ceil((np.array(crop[:2]) - corner) / cell - 0.5).clip(0, cells).astype(int)
    last = np.ceil((np.array(crop[2:]) - corner) / cell - 0.5).clip(0, cells).astype(int)
    seen = np.ascontiguousarray(mask[first[1] : last[1], first[0] : last[0]])
    visible = cv2.countNonZero(seen) if seen.size else 0
    if not visible:
        return np.array([*corner, *corner]), np.zeros_like(mask), 0.0
    x, y, wide, tall = cv2.boundingRect(seen)
    low = corner + cell * np.add(first, (x, y))
    high = low + cell * (wide, tall)
    part = cv2.resize(seen[y : y + tall, x : x + wide], (cells, cells), interpolation=cv2.INTER_NEAREST_EXACT)
    box = np.concatenate([np.maximum(low, crop[:2]), np.minimum(high, crop[2:])])
    return box, part, visible / cv2.countNonZero(mask)
