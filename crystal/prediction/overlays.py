"""Pictures for people: outlines over a micrograph, truth beside prediction, contact sheets (OpenCV on uint8 RGB).

Every function returns a new picture and leaves its input alone. Masks come as bool [n, h, w] or as a list of
compressed COCO RLE. Outlines have a dark halo, so that they are seen on bright and on dark ground, in colours that the
common kinds of colour blindness tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from crystal.data.labelme.folder import voc_colours
from crystal.data.outlines import contours, cut

Image = UInt8[np.ndarray, "h w 3"]
Masks = Bool[np.ndarray, "n h w"] | Sequence[Mapping[str, Any]]
Colour = tuple[int, int, int]

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color), RGB, for every picture and chart of the package.
ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
YELLOW: Colour = (240, 228, 66)
BLUE: Colour = (0, 114, 178)  # too dark on a drop
VERMILLION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)
GREY: Colour = (150, 150, 150)
COLOURS = (ORANGE, SKY, GREEN, YELLOW, VERMILLION, PURPLE)  # of instances, in turn
HALO: Colour = (16, 16, 16)
FONT = cv2.FONT_HERSHEY_SIMPLEX
MAX_LABELS = 25  # more of them hide the picture


def line_width(height: int, width: int) -> int:
    """Pixels of an outline that reads when the whole picture is on a screen: 1 at 256, 2 at 512, 7 at 2700."""
    return 1 + min(height, width) // 400


def _own_width(parts: list[np.ndarray], most: int) -> int:
    """The width of one outline in pixels: `most`, but thin enough for what is inside a small instance to be seen."""
    if not parts:
        return most
    return min(most, max(1, int(np.ptp(np.concatenate(parts), axis=0).min()) // 8))


def _place(busy: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int] | None:
    """Top-left (x, y) of a label of `size` (w, h) beside a box, where it hides least of what is `busy`."""
    x1, y1, x2, y2 = box
    w, h = size
    spots = [
        (x1, y1 - h),
        (x1, y2),
        (x2 - w, y1 - h),
        (x2 - w, y2),
        (x2, y1),
        (x1 - w, y1),
        (x2, y2 - h),
        (x1 - w, y2 - h),
    ]
    spots = [(x, y) for x, y in spots if 0 <= x <= busy.shape[1] - w and 0 <= y <= busy.shape[0] - h]
    return min(spots, key=lambda s: int(busy[s[1] : s[1] + h, s[0] : s[0] + w].sum()), default=None)


def _write_labels(
    picture: np.ndarray, lines: list[list[np.ndarray]], labels: Sequence[str], colours: list[Colour]
) -> None:
    """Write each label beside its outline, on a dark plate; those of instances smaller than the text are left out."""
    thick = line_width(*picture.shape[:2])
    font_scale = 0.4 * max(1.0, min(picture.shape[:2]) / 700)
    busy = np.zeros(picture.shape[:2], np.uint8)
    for parts in lines:
        cv2.polylines(busy, parts, True, 1, thick + 2)
    for parts, text, colour in zip(lines, labels, colours, strict=True):
        if not parts:
            continue
        (w, h), below = cv2.getTextSize(text, FONT, font_scale, max(1, thick // 2))
        w, h, gap = w + 2 * thick, h + below, 2 * thick
        points = np.concatenate(parts)
        (x1, y1), (x2, y2) = points.min(0) - gap, points.max(0) + gap
        if max(x2 - x1, y2 - y1) < 1.5 * h or (spot := _place(busy, (x1, y1, x2, y2), (w, h))) is None:
            continue
        x, y = spot
        picture[y : y + h, x : x + w] = picture[y : y + h, x : x + w] // 4 + np.array(HALO, np.uint8)
        cv2.putText(
            picture, text, (x + thick, y + h - below), FONT, font_scale, colour, max(1, thick // 2), cv2.LINE_AA
        )
        busy[y : y + h, x : x + w] = 1


def draw_outlines(
    image: Image,
    masks: Masks,
    *,
    scores: Sequence[float] | Float[np.ndarray, " n"] | None = None,
    labels: Sequence[str] | None = None,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    colours: Sequence[Colour] | None = None,
    scale: float = 1.0,
) -> Image:
    """Draw the outline of each instance over an image.

    Args:
        image: uint8 RGB.
        masks: the instances, of the image's height and width.
        scores: in [0, 1], written beside the outlines; not where there are more than 25 instances or one is tiny.
        labels: texts to write instead of the scores.
        boxes: `[x1, y1, x2, y2]` in the image's pixels, drawn as thin rectangles.
        colours: RGB, taken in turn; the six of `COLOURS` where none is given.
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
    palette = [(colours or COLOURS)[i % len(colours or COLOURS)] for i in range(len(masks))]
    # The centre of pixel i lies at i + 0.5; OpenCV draws by pixel index.
    lines = [[np.rint((part + 0.5) * scale - 0.5).astype(np.int32) for part in contours(mask)] for mask in masks]
    frames = [] if boxes is None else [np.rint(np.asarray(box) * scale - 0.5).astype(int) for box in boxes]
    widths = [_own_width(parts, thick) for parts in lines]
    for parts, own in zip(lines, widths, strict=True):  # all halos first: a halo must not cut its neighbour's line
        cv2.polylines(picture, parts, True, HALO, own + max(2, own // 2), cv2.LINE_AA)
    for (x1, y1, x2, y2), colour in zip(frames, palette, strict=bool(frames)):
        cv2.rectangle(picture, (x1, y1), (x2, y2), HALO, max(1, thick // 2) + 2)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, max(1, thick // 2))
    for parts, colour, own in zip(lines, palette, widths, strict=True):
        cv2.polylines(picture, parts, True, colour, own, cv2.LINE_AA)
    if labels is None and scores is not None:
        labels = [f"{score:.2f}" for score in scores]
    if labels is not None and len(lines) <= MAX_LABELS:
        _write_labels(picture, lines, labels, palette)
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
