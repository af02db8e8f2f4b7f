"""Which zooms an image is looked at: those that are asked for, or those that its size suggests."""

import math
from collections.abc import Iterable
from typing import Literal

from crystal.errors import RangeError
from maskrcnn_jax.image.tiles import ENLARGED, OVERLAP

Zoom = Literal["auto"] | tuple[float, ...]
WHOLE: Zoom = (1.0,)
# To a network that was trained on whole images, grains in closer views look like crystals. Well above `context.SURE`,
# which a crystal must still be able to reach that shows in no other view.
UNTRAINED = 0.75


def parse_zoom(text: str) -> Zoom:
    """What `--zoom` says: auto, none, or zooms that begin with 1, the whole image.

    >>> parse_zoom("none"), parse_zoom("1,2,4")
    ((1.0,), (1.0, 2.0, 4.0))

    Raises:
        RangeError: anything else.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return WHOLE
    try:
        zooms = [float(word) for word in text.split(",")]
    except ValueError:
        zooms = []
    if zooms[:1] != [1.0] or zooms != sorted(set(zooms)) or not all(map(math.isfinite, zooms)):
        raise RangeError(
            f"--zoom {text}: must be auto, none, or rising numbers that begin with 1, the whole image, as in 1,2,4"
        )
    return tuple(zooms)


def zooms_of(height: int, width: int, size: tuple[int, int], zoom: Zoom) -> tuple[float, ...]:
    """The zooms for an image of this size and a network's input of that size, (height, width).

    "auto" looks at the whole image and at grids of 2 x 2, 4 x 4, ... tiles, as long as the input has no more pixels
    than the part of the image that it shows, but for ENLARGED: beyond, enlarging adds nothing to see.

    A photograph of 1024 x 1224 pixels, and the one that a network of 256 x 320 sees as it is:

    >>> zooms_of(1024, 1224, (256, 320), "auto"), zooms_of(256, 320, (256, 320), "auto")
    ((1.0, 1.7, 3.2), (1.0,))
    """
    if zoom != "auto":
        return zoom
    most = ENLARGED * max(height / size[0], width / size[1])
    zooms, tiles = [1.0], 2
    while (closer := _zoom_of_grid(tiles)) <= most:
        zooms.append(closer)
        tiles *= 2
    return tuple(zooms)


def _zoom_of_grid(tiles: int) -> float:
    """The zoom at which this many tiles with their overlap cover a side; rounded down, so that pixels are no matter."""
    return math.floor(10 * (tiles - (tiles - 1) * OVERLAP)) / 10


def trust(zoom: float, trained: tuple[float, float] | None) -> float:
    """What a score at this zoom counts, for one in the whole image: 1 if training showed closer views, else UNTRAINED.

    >>> trust(2.0, (1.0, 2.5)), trust(2.0, (1.0, 1.0)), trust(2.0, None), trust(1.0, None)
    (1.0, 0.75, 0.75, 1.0)
    """
    return 1.0 if zoom == 1 or as_trained(trained) == "auto" else UNTRAINED


def as_trained(trained: tuple[float, float] | None) -> Zoom:
    """What a network is measured at: whole images if it was trained on them alone, else as `predict` looks at them."""
    return "auto" if trained and trained[1] > 1 else WHOLE


def listed(zooms: Iterable[float]) -> str:
    """For people.

    >>> listed((1.0, 2.0, 2.5))
    '1, 2, 2.5'
    """
    return ", ".join(f"{zoom:g}" for zoom in zooms)
