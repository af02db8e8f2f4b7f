"""Where to shoot a crystal and where to dispense into a drop: the points farthest from every edge.

The distance of each pixel to the nearest one outside is OpenCV's exact distance transform; its maximum is the centre of
the largest circle that fits. CHiMP places its dispensing point in this way (King et al. 2024).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool

from crystal.data.outlines import Mask, cut

CLOSE = 1e-3  # pixels; distances that differ by less are equal


class Inmost(NamedTuple):
    """The middle of the largest circle inside a region.

    Attributes:
        x: in continuous pixels of the image (pixel i covers [i, i + 1)).
        y: the same.
        radius: to the region's nearest edge, in pixels; the image's border is an edge.
    """

    x: float
    y: float
    radius: float


def _inmost(patch: Bool[np.ndarray, "h w"], top: int, left: int) -> Inmost | None:
    if not patch.any():
        return None
    padded = np.pad(patch.view(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    most = float(distance.max())
    rows, columns = np.nonzero(distance > most - CLOSE)
    moments = cv2.moments(padded, binaryImage=True)
    # Of equally good pixels, as along the middle of a needle, the one nearest the centre of mass.
    middle_x, middle_y = moments["m10"] / moments["m00"] - 1, moments["m01"] / moments["m00"] - 1
    away = (rows - middle_y) ** 2 + (columns - middle_x) ** 2
    best = int(away.argmin())
    return Inmost(left + float(columns[best]) + 0.5, top + float(rows[best]) + 0.5, most - 0.5)


def shooting_point(mask: Mask) -> Inmost | None:
    """The point of a crystal that is farthest from its outline; None for an empty mask.

    >>> mask = np.zeros((20, 30), bool)
    >>> mask[5:10, 10:21] = True
    >>> shooting_point(mask)
    Inmost(x=15.5, y=7.5, radius=2.5)
    """
    return _inmost(*cut(mask))


def dispensing_point(drop: Mask, crystals: Sequence[Mask]) -> Inmost | None:
    """The point of a drop that is farthest from its rim and from every crystal; None where nothing of it is free.

    >>> drop, crystal = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    >>> drop[4:15, 2:35] = True
    >>> crystal[4:15, 2:24] = True
    >>> dispensing_point(drop, [crystal])
    Inmost(x=29.5, y=9.5, radius=5.5)
    """
    patch, top, left = cut(drop)
    free = patch.copy()
    for crystal in crystals:
        part, y, x = cut(crystal)
        # The two patches' common rectangle, in each one's own pixels.
        y1, y2 = max(y, top), min(y + part.shape[0], top + patch.shape[0])
        x1, x2 = max(x, left), min(x + part.shape[1], left + patch.shape[1])
        if y1 < y2 and x1 < x2:
            free[y1 - top : y2 - top, x1 - left : x2 - left] &= ~part[y1 - y : y2 - y, x1 - x : x2 - x]
    return _inmost(free, top, left)
