"""One object's `segmentation` in a COCO file: checked, clipped to the image, and turned into pixels.

COCO writes an outline in three ways: polygons, a list of parts `[x, y, x, y, ...]` in continuous pixels; run lengths,
`{"size": [h, w], "counts": [...]}`, pixels down the columns, zeros first; and the same with the counts packed into a
string. Files may hold any of it damaged, and pycocotools' C code trusts its input: what reaches it here has been
checked. Runs in input workers: no JAX.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8
from pycocotools import mask as coco_mask

from crystal.console import brief

LEAST_AREA = 1e-3  # square pixels of a polygon's convex hull: below, its points lie on a line
# Pixels along an outline: pycocotools takes some 40 bytes for each; the border of a 100-megapixel image has 40,000.
LONGEST_OUTLINE = 2**20
OVER_THE_EDGE = 1.0  # pixels by which a corner may lie outside the image unreported: rounding, and counting from 1

Segmentation = list[list[float]] | dict[str, Any]
Extent = tuple[float, float, float, float]  # x1, y1, x2, y2


class SegmentationError(ValueError):
    """Why an outline cannot be used; `dataset.py` adds which one it is."""


class CheckedSegmentation(NamedTuple):
    """What can be used of an outline.

    Attributes:
        outline: polygons clipped to the image, bad parts left out, or run lengths as they are.
        extent: its box, in pixels.
        left_out: for each part that was left out, why.
        clipped: whether the outline reached outside the image.
    """

    outline: Segmentation
    extent: Extent
    left_out: tuple[str, ...] = ()
    clipped: bool = False


def _halfplane(points: Float[np.ndarray, "n 2"], axis: int, limit: float, sign: int) -> Float[np.ndarray, "k 2"]:
    """The part of a polygon where `sign * (points[:, axis] - limit) <= 0` (Sutherland and Hodgman, 1974)."""
    outside = sign * (points[:, axis] - limit)
    inside = []
    for this, (point, d) in enumerate(zip(points, outside, strict=True)):
        before, last = points[this - 1], outside[this - 1]
        if (d > 0) != (last > 0):
            inside.append(before + (point - before) * (last / (last - d)))
        if d <= 0:
            inside.append(point)
    return np.array(inside).reshape(-1, 2)


def _clipped(points: Float[np.ndarray, "n 2"], height: int, width: int) -> Float[np.ndarray, "k 2"]:
    # pycocotools reserves memory by an edge's length, so a corner at 1e9 must be clipped first.
    if (points >= 0).all() and (points <= (width, height)).all():
        return points
    for axis, limit, sign in ((0, 0.0, -1), (0, float(width), 1), (1, 0.0, -1), (1, float(height), 1)):
        points = _halfplane(points, axis, limit, sign)
    return np.clip(points, 0, (width, height))  # rounding errors


def _has_area(points: Float[np.ndarray, "n 2"]) -> bool:
    return len(points) >= 3 and cv2.contourArea(cv2.convexHull(points.astype(np.float32))) >= LEAST_AREA


def _polygon(part: Any, height: int, width: int) -> tuple[list[float], bool]:
    """The polygon inside the image, and whether it reached beyond."""
    try:
        numbers = np.asarray(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise SegmentationError("the polygon holds something other than numbers") from None
    if numbers.ndim != 1 or numbers.size % 2 or not (np.abs(numbers) < 1e15).all():
        raise SegmentationError("the polygon is not a list of finite x, y pairs")
    if numbers.size < 6:
        raise SegmentationError("the polygon has fewer than three points")
    points = numbers.reshape(-1, 2)
    if not _has_area(points - points[0]):
        raise SegmentationError("the polygon has no area")
    over = max(-points.min(), (points - (width, height)).max())
    points = _clipped(points, height, width)
    if not _has_area(points):
        raise SegmentationError("the polygon lies outside the image")
    if np.abs(points - np.roll(points, 1, 0)).max(1).sum() > LONGEST_OUTLINE:
        raise SegmentationError("the polygon's outline is longer than any object's")
    return points.ravel().tolist(), bool(over > OVER_THE_EDGE)


def region_around(points: Any, height: int, width: int, *, least: float = 1.0) -> Extent | None:
    """The box around an object that cannot be outlined, inside the image and at least `least` pixels wide and high.

    `points` is whatever should have been its corners: x, y pairs or flat lists of them. None where that is no position
    in the image.
    """
    try:
        corners = np.asarray(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return None
    if not len(corners) or not (np.abs(corners) < 1e15).all():
        return None
    middle, half = (corners.min(0) + corners.max(0)) / 2, np.maximum(np.ptp(corners, axis=0), least) / 2
    (x1, y1), (x2, y2) = np.maximum(middle - half, 0).tolist(), np.minimum(middle + half, (width, height)).tolist()
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def unpacked_runs(packed: bytes) -> Int64[np.ndarray, " n"]:
    """Run lengths out of COCO's string: five bits a character, lowest first, a sixth says that more follow, and from
    the fourth number on each is the difference to the one two before.
    """
    codes = np.frombuffer(packed, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or last.size == 0 or last[-1] != codes.size - 1:
        raise SegmentationError("the run lengths cannot be unpacked")
    first = np.r_[0, last[:-1] + 1]
    length = last - first + 1
    if length.max() > 7:  # 35 bits: far beyond any image
        raise SegmentationError("the run lengths cannot be unpacked")
    place = np.arange(codes.size) - np.repeat(first, length)
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    runs -= np.where(codes[last] & 16, 1 << (5 * length), 0)  # the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _runs(rle: dict[str, Any], height: int, width: int) -> Int64[np.ndarray, " n"]:
    """Checked run lengths: none negative, and as many pixels as the image has."""
    counts, size = rle.get("counts"), rle.get("size")
    if size != [height, width]:
        raise SegmentationError(f"the run lengths are for an image of size {brief(size)}, not [{height}, {width}]")
    if isinstance(counts, str | bytes):
        runs = unpacked_runs(counts.encode("ascii", "replace") if isinstance(counts, str) else counts)
    elif isinstance(counts, list) and all(type(c) is int and abs(c) < 2**40 for c in counts):
        runs = np.array(counts, np.int64)
    else:
        raise SegmentationError("the run lengths are neither a string nor a list of whole numbers")
    # Each is compared first: a sum of many that are too large could overflow to the right one.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise SegmentationError("the run lengths do not add up to the image")
    return runs


def _runs_extent(runs: Int64[np.ndarray, " n"], height: int) -> Extent:
    ends = np.cumsum(runs)
    filled = runs[1::2] > 0
    if not filled.any():
        raise SegmentationError("the mask is empty")
    first, last = ends[0::2][: filled.size][filled], ends[1::2][filled] - 1
    x1, x2 = first.min() // height, last.max() // height + 1
    if (first // height != last // height).any():  # a run that goes on in the next column touches top and bottom
        return float(x1), 0.0, float(x2), float(height)
    return float(x1), float((first % height).min()), float(x2), float((last % height).max() + 1)


def check_segmentation(segmentation: Any, height: int, width: int) -> CheckedSegmentation:
    """Check an outline from a file and clip it to the image.

    Args:
        segmentation: any JSON value.
        height: of the image, in pixels.
        width: of the image.

    Raises:
        SegmentationError: nothing of it can be used.
    """
    if isinstance(segmentation, dict):
        runs = _runs(segmentation, height, width)
        outline: Segmentation = {"size": [height, width], "counts": segmentation["counts"]}
        return CheckedSegmentation(outline, _runs_extent(runs, height))
    if not isinstance(segmentation, list) or not segmentation:
        raise SegmentationError("there is no outline")
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one part, without the list of parts around it
    parts, left_out, clipped = [], [], False
    for part in segmentation:
        try:
            polygon, beyond = _polygon(part, height, width)
        except SegmentationError as error:
            left_out.append(str(error))
            continue
        parts.append(polygon)
        clipped |= beyond
    if not parts:
        raise SegmentationError(left_out[0])
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return CheckedSegmentation(parts, (x1, y1, x2, y2), tuple(left_out), clipped)


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A checked outline as pycocotools' compressed run lengths, without painting the image."""
    outline: Any = segmentation
    if isinstance(segmentation, dict):
        counts = _runs(segmentation, height, width).tolist()
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)  # type: ignore[return-value]
    return coco_mask.merge(coco_mask.frPyObjects(outline, height, width))  # type: ignore[return-value]


def _filled(runs: Int64[np.ndarray, " n"], height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    return np.repeat((np.arange(runs.size) % 2).astype(np.uint8), runs).reshape(width, height).T


def draw_pixels(
    segmentation: Segmentation, height: int, width: int, crop: tuple[int, int, int, int] | None = None
) -> UInt8[np.ndarray, "rows columns"]:
    """The pixels of a checked outline, 0 or 1, as pycocotools draws them; of polygons the parts are united.

    `crop` = (x1, y1, x2, y2) in whole pixels gives just that part, and for polygons costs no more than that part; where
    pycocotools' rounding is a tie, a pixel in some ten thousand outlines falls to the other side.
    """
    x1, y1, x2, y2 = crop or (0, 0, width, height)
    if isinstance(segmentation, dict):  # the runs of the crop's columns
        ends = np.clip(np.cumsum(_runs(segmentation, height, width)), x1 * height, x2 * height)
        return _filled(np.diff(ends, prepend=x1 * height), height, x2 - x1)[y1:y2]
    # Rounded, because pycocotools rounds to fifths of a pixel: 23.7 - 12 = 11.699... would fall to the other side.
    shifted: Any = [(np.reshape(part, (-1, 2)) - (x1, y1)).round(6).ravel().tolist() for part in segmentation]
    drawn: Any = coco_mask.merge(coco_mask.frPyObjects(shifted, y2 - y1, x2 - x1))
    return _filled(unpacked_runs(drawn["counts"]), y2 - y1, x2 - x1)


def _at_edges(
    table: Shaped[np.ndarray, "n w"], low: float, high: float, first: int, cells: int
) -> Float[np.ndarray, "e w"]:
    """Rows of a table that belongs to the pixel borders first, first + 1, ..., read at the borders of `cells` equal
    cells between `low` and `high`, linearly in between.
    """
    edges = np.linspace(low, high, cells + 1) - first
    before = np.minimum(edges.astype(np.int64), len(table) - 2)
    share = (edges - before)[:, None]
    return table[before] * (1 - share) + table[before + 1] * share


def draw_cells(segmentation: Segmentation, box: Extent, height: int, width: int, size: int) -> UInt8[np.ndarray, "m m"]:
    """The outline relative to its box: cell (i, j) of [size, size] is 1 if half of it or more lies inside."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))
    pixels = draw_pixels(segmentation, height, width, (left, top, right, bottom))
    # A table of sums up to each pixel border is linear within a pixel, so reading it in between is exact; a cell's sum
    # is the difference across it.
    sums = _at_edges(cv2.integral(np.ascontiguousarray(pixels)), y1, y2, top, size)
    sums = _at_edges(np.ascontiguousarray(sums.T), x1, x2, left, size).T
    share = np.diff(np.diff(sums, axis=0), axis=1) * (size * size / ((x2 - x1) * (y2 - y1)))
    return (share >= 0.5 - 1e-9).astype(np.uint8)  # rounding may leave a half a little short
