"""What a mask is in numbers and points: its patch, its border, its size, its run lengths.

A mask comes as bool [h, w] or as compressed COCO RLE, `{"size": [height, width], "counts": bytes}`. Run lengths keep
hundreds of masks of a 9-megapixel micrograph in some 100 kB, where a stack [n, h, w] would take gigabytes.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool
from pycocotools import mask as rle_tools

POLYGON_IOU = 0.98  # polygons must give a mask back this well, else run lengths or a mask are written

Mask = Bool[np.ndarray, "h w"] | Mapping[str, Any]


def encode_patch(patch: Bool[np.ndarray, "ph pw"], top: int, left: int, *, height: int, width: int) -> dict[str, Any]:
    """Compressed COCO RLE of a mask that is `patch` at (top, left) and False elsewhere, without painting that frame.

    Args:
        patch: the pixels of the instance's box.
        top: first row of the patch; the patch lies inside the frame.
        left: first column.
        height: of the whole frame, in pixels.
        width: of the whole frame.

    Returns:
        `{"size": [height, width], "counts": bytes}`, equal to what `pycocotools.mask.encode` gives for the full frame.

    >>> rle = encode_patch(np.ones((2, 1), bool), 0, 1, height=3, width=4)
    >>> rle_tools.decode(rle).tolist()
    [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    """
    # COCO runs go down the columns, so only the columns of the patch matter; what lies before is one run of zeros.
    strip = np.zeros((patch.shape[1], height), np.int8)
    strip[:, top : top + patch.shape[0]] = patch.T
    edges = np.flatnonzero(np.diff(strip.ravel(), prepend=0, append=0)) + left * height
    runs = np.diff(edges, prepend=0, append=height * width)
    if runs[-1] == 0 and len(runs) > 1:
        runs = runs[:-1]
    rle: Any = rle_tools.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return rle


def cut(mask: Mask) -> tuple[Bool[np.ndarray, "ph pw"], int, int]:
    """(patch, top, left): the part of a mask that holds its pixels; an empty patch at 0, 0 for an empty mask."""
    if not isinstance(mask, np.ndarray):
        x, y, w, h = rle_tools.toBbox(mask).astype(int)  # type: ignore[arg-type]
        return rle_tools.decode(mask)[y : y + h, x : x + w].astype(bool), int(y), int(x)  # type: ignore[arg-type]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 0), bool), 0, 0
    top, left = int(rows[0]), int(columns[0])
    return mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool), top, left


def contours(mask: Mask) -> list[np.ndarray]:
    """The outer border of each connected part, as indices (x, y) of its border pixels, int32 [n, 2]."""
    patch, top, left = cut(mask)
    if not patch.size:
        return []
    found, _ = cv2.findContours(patch.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top))
    return [points.reshape(-1, 2).astype(np.int32) for points in found]


def _given_back(outlines: list[list[float]], patch: Bool[np.ndarray, "ph pw"], least_iou: float) -> bool:
    """Whether polygons say what a mask cut to its box says: its pixels, and its extent to a pixel."""
    corners = np.concatenate([np.reshape(outline, (-1, 2)) for outline in outlines])
    if (corners.min(0) > 1).any() or (corners.max(0) < np.array(patch.shape[::-1]) - 1).any():
        return False
    shapes: Any = outlines  # pycocotools' own annotations know only one of the forms it takes
    drawn = rle_tools.decode(rle_tools.merge(rle_tools.frPyObjects(shapes, *patch.shape))).astype(bool)
    return float((drawn & patch).sum() / max((drawn | patch).sum(), 1)) >= least_iou


def polygons(mask: Mask, *, least_iou: float = POLYGON_IOU) -> tuple[list[list[float]], bool]:
    """Outer outlines as COCO and LabelMe have them, and whether they say what the mask says.

    Of a few tolerances the coarsest that gives the mask back is taken, or the finest if none does: a mask with a hole
    or of a few pixels.

    Args:
        mask: bool [h, w] or compressed RLE.
        least_iou: mask IoU between the mask and pycocotools' reading of the outlines from which they give it back.

    Returns:
        A flat list x, y, x, y, ... in continuous pixels for each part of three points or more, and whether together
        they give the mask back.
    """
    patch, top, left = cut(mask)
    if not patch.size:
        return [], False
    fine = 4  # outlines run through pixel centres; on a finer grid that is nearly the pixels' edge
    big = cv2.resize(patch.astype(np.uint8), None, fx=fine, fy=fine, interpolation=cv2.INTER_NEAREST)
    lines = [line for line in cv2.findContours(big, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0] if len(line) >= 3]
    local: list[list[float]] = []
    good = False
    for tolerance in (1.0, 0.6, 0.3, 0.0):
        rings = [cv2.approxPolyDP(line, tolerance * fine, True) if tolerance else line for line in lines]
        local = [np.round((ring[:, 0] + 0.5) / fine, 2).ravel().tolist() for ring in rings if len(ring) >= 3]
        good = bool(local) and _given_back(local, patch, least_iou)
        if good:
            break
    return [[v + (left, top)[k % 2] for k, v in enumerate(outline)] for outline in local], good


def measure(mask: Mask) -> tuple[int, float, float, float, float]:
    """(area, centre x, centre y, length, width) of a mask, in pixels; the mask has at least one.

    >>> mask = np.zeros((20, 30), bool)
    >>> mask[5:9, 10:20] = True
    >>> measure(mask)
    (40, 15.0, 7.0, 10.0, 4.0)
    """
    patch, top, left = cut(mask)
    rows, columns = np.nonzero(patch)
    # A rectangle round pixel centres would be one pixel short: round the corners of the border pixels instead.
    corners = np.concatenate(contours(mask))[:, None] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int32)
    sides = cv2.minAreaRect(corners.reshape(-1, 2).astype(np.float32))[1]
    x, y = left + columns.mean() + 0.5, top + rows.mean() + 0.5
    return len(rows), float(x), float(y), float(max(sides)), float(min(sides))
