"""Pictures for people: outlines over a micrograph, truth beside prediction, contact sheets (OpenCV on uint8 RGB).

Every function returns a new picture and leaves its input alone. Masks come as bool [n, h, w] or as a list of
compressed COCO RLE. Outlines have a dark halo, so that they are seen on bright and on dark ground, in colours that the
common kinds of colour blindness tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from crystal.data.labelme.folder import voc_colours
from crystal.data.outlines import Mask, contours, cut
from crystal.prediction.labels import FONT, HALO, Colour, write_labels

Image = UInt8[np.ndarray, "h w 3"]
Masks = Bool[np.ndarray, "n h w"] | Sequence[Mapping[str, Any]]

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color), RGB, for every picture and chart of the package.
ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
YELLOW: Colour = (240, 228, 66)
BLUE: Colour = (0, 114, 178)  # too dark on a drop
VERMILLION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)
GREY: Colour = (150, 150, 150)
COLOURS = (ORANGE, SKY, GREEN, YELLOW, VERMILLION, PURPLE)  # of instances


def line_width(height: int, width: int) -> int:
    """Pixels of an outline that reads when the whole picture is on a screen: 2, and 3 at 2700."""
    return max(2, round(min(height, width) / 900))


class _Outline(NamedTuple):
    """Lines around an instance, in pixels of the picture, and what of it the picture shows, at (left, top)."""

    lines: list[Int[np.ndarray, "k 2"]]
    inside: Bool[np.ndarray, "ph pw"]
    left: int
    top: int

    def draw(self, picture: Image, colour: Colour, thick: int) -> None:
        """Draw the lines, but not over the instance itself."""
        part = picture[self.top :, self.left :][: self.inside.shape[0], : self.inside.shape[1]]
        before = part.copy()
        cv2.polylines(picture, self.lines, True, colour, thick, cv2.LINE_AA)
        inside = self.inside[: part.shape[0], : part.shape[1]]  # at the picture's border a pixel may be rounded away
        np.copyto(part, before, where=inside[..., None])  # an index would list every pixel of a drop


def _around(mask: Mask, scale: float, out: int) -> _Outline:
    """The outline of a mask, its lines `out` pixels outside the border pixels."""
    # The centre of pixel i lies at i + 0.5; OpenCV draws by pixel index.
    parts = [np.rint((part + 0.5) * scale - 0.5).astype(np.int32) for part in contours(mask)]
    if not parts:
        return _Outline([], np.zeros((0, 0), bool), 0, 0)
    corner = np.concatenate(parts).min(0) - out
    canvas = np.zeros((np.concatenate(parts).max(0) - corner + out + 1)[::-1], np.uint8)
    cv2.fillPoly(canvas, [part - corner for part in parts], 1)
    wider = cv2.dilate(canvas, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * out + 1, 2 * out + 1)))
    lines, _ = cv2.findContours(wider, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=corner.tolist())
    left, top = corner + out
    return _Outline([line.reshape(-1, 2) for line in lines], canvas[out:-out, out:-out].astype(bool), left, top)


def _apart(outlines: Sequence[_Outline], height: int, width: int, near: int) -> list[Colour]:
    """A colour for each instance: the six in turn, but none that lies within `near` pixels, as far as six suffice."""
    owner, chosen = np.zeros((height, width), np.uint8), []  # owner: which colour lies there, from 1 on
    for number, outline in enumerate(outlines):
        turn = [(number + k) % len(COLOURS) for k in range(len(COLOURS))]
        if not outline.lines:
            chosen.append(COLOURS[turn[0]])
            continue
        points = np.concatenate(outline.lines)
        low, high = np.maximum(points.min(0) - near, 0), np.minimum(points.max(0) + near + 1, [width, height])
        place = owner[low[1] : high[1], low[0] : high[0]]
        lines = [line - low for line in outline.lines]
        inside = np.zeros(place.shape, np.uint8)
        cv2.fillPoly(inside, lines, 1)
        around = cv2.polylines(inside.copy(), lines, True, 1, 2 * near)
        taken = set(place[around > 0].tolist())
        colour = next((c for c in turn if c + 1 not in taken), turn[0])
        place[inside > 0] = colour + 1
        chosen.append(COLOURS[colour])
    return chosen


def draw_outlines(
    image: Image,
    masks: Masks,
    *,
    labels: Sequence[str] | None = None,
    scores: Sequence[float] | Float[np.ndarray, " n"] | None = None,
    colours: Sequence[Colour] | None = None,
    scale: float = 1.0,
) -> Image:
    """Draw a line around each instance of an image; what lies inside stays as it is.

    Args:
        image: uint8 RGB.
        masks: the instances, of the image's height and width.
        labels: a short text each, such as its number, written beside it on its colour (`labels.py`).
        scores: in [0, 1], written behind the labels; with labels, only where there are few instances.
        colours: RGB, taken in turn; where none is given, the six of `COLOURS`, so that neighbours differ.
        scale: size of the picture against the image, for thumbnails, or for fine lines over a small image.

    Returns:
        A new picture, the image's size x scale.
    """
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = image.copy()
    if scale != 1:
        picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    thick = line_width(*picture.shape[:2])
    outlines = [_around(mask, scale, thick // 2 + 1) for mask in masks]
    if colours:
        palette = [colours[i % len(colours)] for i in range(len(masks))]
    else:
        palette = _apart(outlines, *picture.shape[:2], near=2 * thick)
    for outline in outlines:  # all halos first: a halo must not cut its neighbour's line
        outline.draw(picture, HALO, thick + 2)
    for outline, colour in zip(outlines, palette, strict=True):
        outline.draw(picture, colour, thick)
    texts = [] if labels is None else [list(labels)]
    if scores is not None:
        texts.append([f"{score:.2f}" for score in scores])
    if texts:
        lines = [outline.lines for outline in outlines]
        write_labels(picture, lines, list(zip(*texts, strict=True)), palette, gap=thick + 1)
    return picture


def beside(pictures: Sequence[Image], *, gap: int = 8) -> Image:
    """Put pictures of one height in a row, on white."""
    spacer = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, spacer)][:-1], axis=1)


def contact_sheet(images: Sequence[Image], captions: Sequence[str], columns: int, tile_width: int) -> Image:
    """Pictures of any size as tiles of one width on white, row by row, each with its caption (ASCII) below."""
    if not images or columns < 1 or len(images) != len(captions):
        raise ValueError(f"need pictures, a caption each and a column: {len(images)}, {len(captions)}, {columns}")
    gap, text_height = 8, 22
    heights = [max(1, round(i.shape[0] * tile_width / i.shape[1])) for i in images]
    rows = [max(heights[i : i + columns]) for i in range(0, len(images), columns)]
    sheet = np.full(
        (sum(rows) + len(rows) * (text_height + gap) + gap, columns * (tile_width + gap) + gap, 3), 255, np.uint8
    )
    for i, (image, caption, height) in enumerate(zip(images, captions, heights, strict=True)):
        row, column = divmod(i, columns)
        x, y = gap + column * (tile_width + gap), gap + sum(rows[:row]) + row * (text_height + gap)
        smaller = image.shape[1] > tile_width
        tile = cv2.resize(image, (tile_width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        sheet[y : y + height, x : x + tile_width] = tile
        while caption and cv2.getTextSize(caption, FONT, 0.45, 1)[0][0] > tile_width:
            caption = caption[:-1]
        cv2.putText(sheet, caption, (x, y + rows[row] + 15), FONT, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet


def _histogram(grey: UInt8[np.ndarray, "h w"], width: int, height: int) -> Image:
    """How often each brightness occurs, black on the left to white on the right; the tallest bar fills the height."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    strip = np.full((height, width, 3), 255, np.uint8)
    bars = counts[(np.arange(width) * 256) // width] / max(counts.max(), 1)
    strip[np.arange(height)[::-1, None] < np.ceil(bars * height)] = (60, 60, 60)
    return strip


def over_histogram(image: Image) -> Image:
    """An image over the histogram of its brightness."""
    height, width = image.shape[:2]
    histogram = _histogram(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), width, max(8, height // 4))
    return np.concatenate([image, np.full((max(2, height // 60), width, 3), 255, np.uint8), histogram])


def labelled_mask(image: Image, masks: Masks) -> Image:
    """An image beside its instances, each filled with a colour of its own on black (the paper's figure 5)."""
    filled = np.zeros_like(image)
    for colour, mask in zip(voc_colours(len(masks) + 1)[1:], masks, strict=True):
        patch, top, left = cut(mask)
        filled[top : top + patch.shape[0], left : left + patch.shape[1]][patch] = colour
    return beside([image, filled])
