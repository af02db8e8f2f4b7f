"""Views of an image at several zooms: the whole of it, and overlapping tiles in which small objects come large.

A network of one input size sees a whole photograph reduced to that size, and small objects vanish. So it also looks at
slices of it (slicing aided inference: Akyon et al. 2022). At zoom z each view is a rectangle of the image that the
letterbox enlarges z times as much as the whole image, so every view of every zoom goes through the same compiled
network. Neighbours overlap, so that an object no larger than the overlap is seen whole in one of them at least; what a
border cuts, and what is too large, is left to other views (`owns`). NumPy on the host.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from maskrcnn_jax import checks
from maskrcnn_jax.image.letterbox import fit

ENLARGED = 1.1  # an image is worth looking at up to this many pixels of the network's input for one of its own
OVERLAP = 0.25  # of neighbouring tiles, at least, as a share of a tile's side
MARGIN = 0.02  # an object this near to an inner border, as a share of the tile's side, counts as cut


class View(NamedTuple):
    """A rectangle of an image, whole pixels of the original.

    Attributes:
        zoom: how many times larger than in a view of the whole image objects appear in it.
        top: its first row.
        left: its first column.
        height: in pixels.
        width: in pixels.
    """

    zoom: float
    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> Float[np.ndarray, "4"]:
        """`[x1, y1, x2, y2]` in pixels of the image."""
        return np.array([self.left, self.top, self.left + self.width, self.top + self.height], np.float64)


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """Evenly spaced first pixels of as few windows as cover a side; neighbours share `overlap * window` at least."""
    stride = window - math.floor(overlap * window)
    steps = math.ceil((side - window) / stride)
    return [round(i * (side - window) / steps) for i in range(steps + 1)] if steps else [0]


def view_size(height: int, width: int, size: int | tuple[int, int], zoom: float) -> tuple[int, int]:
    """(height, width) in pixels of the image of what a view at this zoom shows; no more than the image has.

    Args:
        height: of the image, in pixels.
        width: of the image.
        size: of the network's input, as `letterbox` takes it.
        zoom: at least 1, which is the whole image.

    Raises:
        ValueError: a side below 1, a zoom below 1.

    A network of 100 x 100 sees at zoom 2 half the width of an image of 200 x 150, but three quarters of its height:

    >>> view_size(150, 200, 100, 2)
    (100, 100)
    """
    if not 1 <= zoom < math.inf:
        raise ValueError(f"views: zoom is {zoom}; give at least 1, which is the whole image")
    whole = fit(height, width, size)
    tall, wide = (
        min(side, max(1, round(given / (zoom * whole.scale))))
        for side, given in zip((height, width), whole.size, strict=True)
    )
    return tall, wide


def views(
    height: int,
    width: int,
    size: int | tuple[int, int],
    *,
    zooms: Sequence[float] = (1.0,),
    overlap: float = OVERLAP,
) -> list[View]:
    """The views of an image: for each zoom a regular grid of equal tiles, row by row, which covers every pixel.

    Args:
        height: of the image, in pixels.
        width: of the image.
        size: of the network's input, as `letterbox` takes it.
        zooms: at least 1 each; 1 is the whole image.
        overlap: of neighbouring tiles, at least, as a share of their side (rounded down to whole pixels); 0 to below 1.

    Returns:
        The views, zoom by zoom in the order given. An image with one side shorter than a tile has one row or column.

    Raises:
        ValueError: a side below 1, a zoom below 1, an overlap out of range.

    At zoom 2 a network of 100 x 100 sees windows of 100 x 100 pixels of an image of 200 x 200; two of them side by side
    would not overlap, so there are three:

    >>> grid = views(200, 200, 100, zooms=(1, 2))
    >>> len(grid), grid[0], grid[2]
    (10, View(zoom=1, top=0, left=0, height=200, width=200), View(zoom=2, top=0, left=50, height=100, width=100))
    """
    checks.in_range("views: overlap", overlap, 0, 1)
    if overlap == 1:
        raise ValueError("views: overlap is 1; give a share below 1")
    found = []
    for zoom in zooms:
        tall, wide = view_size(height, width, size, zoom)
        rows, columns = _starts(height, tall, overlap), _starts(width, wide, overlap)
        found += [View(zoom, top, left, tall, wide) for top in rows for left in columns]
    return found


def owns(
    view: View,
    boxes: Float[np.ndarray, "n 4"],
    *,
    height: int,
    width: int,
    margin: float = MARGIN,
) -> Bool[np.ndarray, " n"]:
    """Whether each object found in a view is the view's to report, rather than left to another.

    It is if it lies clear of those borders of the view that are not borders of the image, so that none of it is cut. An
    object whose sides are no larger than what neighbours share, less the margins, is owned by at least one tile of its
    zoom wherever it lies; a larger one by a tile that happens to hold it, or else by a lower zoom.

    Args:
        view: the view in which the objects were found.
        boxes: `[x1, y1, x2, y2]` in pixels of the image.
        height: of the image, in pixels.
        width: of the image.
        margin: the least distance from an inner border, as a share of the view's side; below half of OVERLAP.

    Returns:
        False for objects that the view may have cut.

    A tile at the left edge of the image may own an object that touches that edge, but not one at its own right side:

    >>> tile, boxes = View(2, 0, 0, 100, 100), np.array([[0.0, 20, 20, 40], [80, 20, 99, 40]])
    >>> owns(tile, boxes, height=100, width=200).tolist()
    [True, False]
    """
    boxes = np.asarray(boxes, np.float64)
    checks.shape("owns: boxes", boxes, "n 4")
    checks.in_range("owns: margin", margin, 0, OVERLAP / 2)
    sides = np.array([view.width, view.height])
    x1, y1, x2, y2 = view.box
    at_edge = np.array([x1 <= 0, y1 <= 0, x2 >= width, y2 >= height])
    clear = boxes * (1, 1, -1, -1) - (x1, y1, -x2, -y2) >= np.tile(margin * sides, 2)
    return np.asarray((clear | at_edge).all(1))
