"""Masks as patches, borders, polygons and run lengths; polygons that cross themselves.

A mask comes as bool [h, w] or as compressed COCO RLE, `{"size": [height, width], "counts": bytes}`. Run lengths keep
hundreds of masks of a 9-megapixel micrograph in some 100 kB, where a stack [n, h, w] would take gigabytes.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as rle_tools

from crystal.data.segmentation import unpacked_runs

POLYGON_IOU = 0.98  # between a mask and its polygons; below, run lengths or a mask are written
CLEAR = 0.01  # pixels by which two edges must pass beyond each other to cross
CHUNK = 256  # edges compared with all others at once

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
        # Only the columns of the box are drawn: `rle_tools.decode` draws the whole image, for every object anew.
        x, y, w, h = rle_tools.toBbox(mask).astype(int).tolist()  # type: ignore[arg-type]
        height, counts = mask["size"][0], mask["counts"]
        edges = np.cumsum(unpacked_runs(counts.encode() if isinstance(counts, str) else counts))
        starts, ends = edges[0:-1:2], edges[1::2]
        filled = starts < ends  # other programs also write runs of no pixel
        steps = np.zeros(w * height + 1, np.int8)
        np.add.at(steps, starts[filled] - x * height, 1)
        np.add.at(steps, ends[filled] - x * height, -1)
        strip = np.cumsum(steps[:-1], dtype=np.int8).reshape(w, height)
        return strip[:, y : y + h].T.astype(bool), y, x
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


def largest_part(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest connected part of a mask (pixels that share a corner are connected); of several as large, one.

    >>> largest_part(np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], bool)).astype(int).tolist()
    [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    """
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return parts == 1 + np.argmax(sizes[1:, cv2.CC_STAT_AREA]) if count > 2 else mask


def _reproduced(outlines: list[list[float]], patch: Bool[np.ndarray, "ph pw"], least_iou: float) -> bool:
    """Whether polygons reproduce a mask cut to its box: its pixels, and its extent to a pixel."""
    corners = np.concatenate([np.reshape(outline, (-1, 2)) for outline in outlines])
    if (corners.min(0) > 1).any() or (corners.max(0) < np.array(patch.shape[::-1]) - 1).any():
        return False
    shapes: Any = outlines  # pycocotools' own annotations know only one of the forms it takes
    drawn = rle_tools.decode(rle_tools.merge(rle_tools.frPyObjects(shapes, *patch.shape))).astype(bool)
    return float((drawn & patch).sum() / max((drawn | patch).sum(), 1)) >= least_iou


def polygons(mask: Mask, *, least_iou: float = POLYGON_IOU) -> tuple[list[list[float]], bool]:
    """Outer outlines in the form of COCO and LabelMe, and whether they reproduce the mask.

    Of a few tolerances the coarsest that reproduces the mask is used, or the finest if none does, as for a mask with a
    hole or of a few pixels.

    Args:
        mask: bool [h, w] or compressed RLE.
        least_iou: IoU between the mask and the pixels of the outlines (as pycocotools draws them) to count as that.

    Returns:
        A flat list x, y, x, y, ... in continuous pixels for each part of three points or more, and whether together
        they reproduce the mask.
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
        good = bool(local) and _reproduced(local, patch, least_iou)
        if good:
            break
    return [[v + (left, top)[k % 2] for k, v in enumerate(outline)] for outline in local], good


def _sides(
    a: Float[np.ndarray, "*n 2"], b: Float[np.ndarray, "*n 2"], p: Float[np.ndarray, "*m 2"]
) -> Float[np.ndarray, "*k"]:
    """How far `p` lies beside the line from `a` to `b`, in pixels: positive on one side, negative on the other."""
    along = b - a
    length = np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-12)
    return (along[..., 0] * (p[..., 1] - a[..., 1]) - along[..., 1] * (p[..., 0] - a[..., 0])) / length


def crosses_itself(points: Float[np.ndarray, "n 2"]) -> bool:
    """Whether two edges of the closed polygon cross: a slip of the annotator's hand, and a hole where it is filled.

    Only edges that pass more than CLEAR beyond each other count. Outlines traced around pixels touch themselves at
    corners and run back along one-pixel spikes, and corners in a row lie on a line but for rounding; none of these is
    a mistake. Edges are sorted by their left ends, and each is compared only with those that begin before it ends, so
    outlines of many short edges cost little more than their number.

    >>> crosses_itself(np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]]))
    True
    >>> crosses_itself(np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]]))
    False
    """
    ends = np.roll(points, -1, 0)
    order = np.argsort(np.minimum(points[:, 0], ends[:, 0]), kind="stable")
    a, b = points[order], ends[order]
    left, right = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    for start in range(0, len(a), CHUNK):
        mine = slice(start, start + CHUNK)
        last = int(np.searchsorted(left, right[mine].max(), side="right"))
        others = slice(start, last)
        a1, b1, a2, b2 = a[mine, None], b[mine, None], a[None, others], b[None, others]
        parted = _sides(a1, b1, a2), _sides(a1, b1, b2), _sides(a2, b2, a1), _sides(a2, b2, b1)
        clear = np.min(np.abs(parted), 0) > CLEAR
        if (clear & (parted[0] * parted[1] < 0) & (parted[2] * parted[3] < 0)).any():
            return True
    return False
