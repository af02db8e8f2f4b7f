"""A crystal's size and place in numbers, measured from its mask."""

import math

import cv2
import numpy as np

from crystal.data.outlines import Mask, contours, cut


def measure(mask: Mask) -> tuple[int, float, float, float, float]:
    """(area, centre x, centre y, length, width) of a mask, in pixels; the mask has at least one.

    >>> mask = np.zeros((20, 30), bool)
    >>> mask[5:9, 10:20] = True
    >>> measure(mask)
    (40, 15.0, 7.0, 10.0, 4.0)
    """
    patch, top, left = cut(mask)
    moments = cv2.moments(patch.view(np.uint8), binaryImage=True)
    # A rectangle round pixel centres would be one pixel short: round the corners of the border pixels instead.
    corners = np.concatenate(contours(patch))[:, None] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int32)
    sides = cv2.minAreaRect(corners.reshape(-1, 2).astype(np.float32))[1]
    area = moments["m00"]
    x, y = left + moments["m10"] / area + 0.5, top + moments["m01"] / area + 0.5
    return int(area), x, y, float(max(sides)), float(min(sides))


def equivalent_diameter(area: float) -> float:
    """The diameter of the circle of the same area.

    >>> round(equivalent_diameter(math.pi * 25), 6)
    10.0
    """
    return 2 * math.sqrt(area / math.pi)
