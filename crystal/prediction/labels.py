"""Labels beside outlines: where they hide nothing, and how they are written.

A label is a tag in the colour of its outline with the instance's number, followed by its score on a dark one, so that
the two are not read as one. A tag lies beside its instance, off every instance and every other tag. Where there is no
such place, it lies inside an instance that is much larger; failing that, a line leads to a place farther off; and where
there is none there either, it is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

Colour = tuple[int, int, int]
Spot = tuple[int, int]  # x, y of the top-left corner of a tag

FONT = cv2.FONT_HERSHEY_SIMPLEX
HALO: Colour = (16, 16, 16)
PALE: Colour = (240, 240, 240)
FEW = 25  # labels; of more, the scores are left out and the letters are smaller
REACH = (1, 2)  # how far off a tag with a line may lie, in its heights
LARGE = 6  # areas of a tag: an instance that may have its tag inside


class _Tag(NamedTuple):
    """The texts of one label, the width of each plate, and what all plates have in common (pixels)."""

    texts: list[str]
    widths: list[int]
    height: int
    pad: int
    baseline: int
    font_scale: float
    weight: int


def _tag(texts: Sequence[str], font_scale: float) -> _Tag:
    weight, pad = max(1, round(1.3 * font_scale)), max(2, round(5 * font_scale))
    sizes = [cv2.getTextSize(text, FONT, font_scale, weight) for text in texts]
    tall, below = max(size[0][1] for size in sizes), max(size[1] for size in sizes)
    widths = [size[0][0] + 2 * pad for size in sizes]
    return _Tag(list(texts), widths, tall + below // 2 + 2 * (pad // 2), pad, pad // 2 + tall, font_scale, weight)


def _spots(box: Int[np.ndarray, " 4"], width: int, height: int, away: int) -> list[tuple[int, int]]:
    """Top-left corners (x, y) of places round a box, `away` pixels from it; above and below first."""
    x1, y1, x2, y2 = box + np.array([-away, -away, away, away])
    middle = (x1 + x2 - width) // 2, (y1 + y2 - height) // 2
    left, right, above, below = x1 - width, x2, y1 - height, y2
    spots = [(middle[0], above), (middle[0], below), (right, middle[1]), (left, middle[1])]
    return [*spots, (right, above), (left, above), (right, below), (left, below)]


def _cover(covered: UInt8[np.ndarray, "h w"], parts: Sequence[Int[np.ndarray, "k 2"]], gap: int) -> None:
    """Count an instance and its line in what covers each pixel."""
    if not parts:
        return
    points = np.concatenate(parts)
    (left, top), (right, bottom) = np.maximum(points.min(0) - gap, 0), points.max(0) + gap + 1
    own = np.zeros_like(covered[top:bottom, left:right])
    moved = [part - (left, top) for part in parts]
    cv2.fillPoly(own, moved, 1)
    cv2.polylines(own, moved, True, 1, 2 * gap - 1)
    covered[top:bottom, left:right] = cv2.add(covered[top:bottom, left:right], own)  # stops at 255


def _free(covered: UInt8[np.ndarray, "h w"], x: int, y: int, width: int, height: int, allowed: int = 0) -> bool:
    """Whether a place lies in the picture and what covers it is `allowed`."""
    inside = 0 <= x <= covered.shape[1] - width and 0 <= y <= covered.shape[0] - height
    return inside and bool((covered[y : y + height, x : x + width] == allowed).all())


def _inside(covered: UInt8[np.ndarray, "h w"], parts: Sequence[Int[np.ndarray, "k 2"]], tag: _Tag) -> Spot | None:
    """A place in the middle of what of an instance nothing else covers."""
    points = np.concatenate(parts)
    (left, top), (right, bottom) = np.maximum(points.min(0), 0), points.max(0) + 1
    own = np.zeros_like(covered[top:bottom, left:right])
    cv2.fillPoly(own, [part - (left, top) for part in parts], 1)
    width, height = sum(tag.widths), tag.height
    if own.sum() < LARGE * width * height:
        return None
    alone = np.pad(own * (covered[top:bottom, left:right] == 1), 1)
    depth = cv2.distanceTransform(alone, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    x, y = int(left + x - width // 2), int(top + y - height // 2)
    return (x, y) if _free(alone[1:-1, 1:-1], x - int(left), y - int(top), width, height, 1) else None


def _line(spot: Spot, tag: _Tag, points: Int[np.ndarray, "k 2"]) -> Int[np.ndarray, "2 2"]:
    """From a tag to the nearest of an outline's points; its two ends."""
    x, y = spot
    width, height = sum(tag.widths), tag.height
    to = points[((points - (x + width // 2, y + height // 2)) ** 2).sum(1).argmin()]
    return np.stack([np.clip(to, (x, y), (x + width - 1, y + height - 1)), to])


def _place(
    covered: UInt8[np.ndarray, "h w"], parts: Sequence[Int[np.ndarray, "k 2"]], gap: int, tag: _Tag
) -> tuple[Spot, Int[np.ndarray, "2 2"] | None] | None:
    """The place of a tag, beside the instance, inside it or farther off; there with the line that leads to it."""
    points = np.concatenate(parts)
    box = np.concatenate([points.min(0) - gap, points.max(0) + gap + 1])
    width, height = sum(tag.widths), tag.height
    beside = (spot for spot in _spots(box, width, height, 0) if _free(covered, *spot, width, height))
    if (spot := next(beside, None) or _inside(covered, parts, tag)) is not None:
        return spot, None
    for spot in (spot for reach in REACH for spot in _spots(box, width, height, reach * height)):
        if _free(covered, *spot, width, height):
            line = _line(spot, tag, points)
            xs, ys = np.linspace(line[0], line[1], 32).astype(int).T
            outside = (xs < box[0]) | (xs >= box[2]) | (ys < box[1]) | (ys >= box[3])
            if not covered[ys, xs][outside].any():
                return spot, line
    return None


def _write(picture: UInt8[np.ndarray, "h w 3"], tag: _Tag, x: int, y: int, colour: Colour) -> None:
    for text, width, plate in zip(tag.texts, tag.widths, (colour, HALO), strict=False):
        cv2.rectangle(picture, (x, y), (x + width - 1, y + tag.height - 1), plate, -1)
        ink = PALE if plate == HALO else HALO
        start = x + tag.pad, y + tag.baseline
        cv2.putText(picture, text, start, FONT, tag.font_scale, ink, tag.weight, cv2.LINE_AA)
        x += width


def write_labels(
    picture: UInt8[np.ndarray, "h w 3"],
    outlines: Sequence[Sequence[Int[np.ndarray, "k 2"]]],
    labels: Sequence[Sequence[str]],
    colours: Sequence[Colour],
    *,
    gap: int,
) -> None:
    """Write the labels of outlines into a picture that has them.

    Args:
        picture: is written into.
        outlines: the parts of each instance's outline, as points (x, y) in pixels of the picture.
        labels: one or two texts an instance: the first on its colour, the second on dark; where more than FEW are
            labelled, the first alone.
        colours: RGB, one an instance.
        gap: pixels between the points of an outline and the nearest tag.
    """
    many = sum(bool(parts) and any(texts) for parts, texts in zip(outlines, labels, strict=True)) > FEW
    font_scale = (0.36 if many else 0.45) * max(1.0, min(picture.shape[:2]) / 900)
    covered = np.zeros(picture.shape[:2], np.uint8)  # by how many instances, lines and tags
    for parts in outlines:
        _cover(covered, parts, gap)
    tags: list[tuple[_Tag, Spot, Colour]] = []
    for parts, texts, colour in zip(outlines, labels, colours, strict=True):
        texts = [text for text in texts if text][: 1 if many else 2]
        if not parts or not texts:
            continue
        tag = _tag(texts, font_scale)
        place = _place(covered, parts, gap, tag)
        if place is None:
            continue
        (x, y), line = place
        if line is not None:
            start, end = line.tolist()
            cv2.line(picture, start, end, colour, max(1, gap - 1), cv2.LINE_AA)
            cv2.line(covered, start, end, 255, gap)
        covered[max(y - 1, 0) : y + tag.height + 1, max(x - 1, 0) : x + sum(tag.widths) + 1] = 255
        tags.append((tag, (x, y), colour))
    for tag, (x, y), colour in tags:  # over the lines
        _write(picture, tag, x, y, colour)
