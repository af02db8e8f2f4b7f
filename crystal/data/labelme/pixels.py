"""The pixels of one LabelMe shape, twice: as COCO reads an outline, and as LabelMe draws it into label.png.

LabelMe's points are continuous pixels, pixel i covers [i, i + 1), as in COCO's format. So a polygon goes into the COCO
file as it stands, and its pixels are those that pycocotools gives it. LabelMe's own pictures are drawn by PIL, which
cuts the points to whole pixels and colours the outline as well: half a pixel more on every side, which is 1 % of a
crystal of 200 pixels and 15 % of one of 12. Nothing here mixes the two.
"""

import io
import math
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw
from pycocotools import mask as rle_tools

from crystal.data.labelme.document import LabelmeError, Shape
from crystal.data.outlines import cut, encode_patch
from crystal.data.segmentation import SegmentationError, check_segmentation

Rle = dict[str, Any]
Part = list[float] | Rle  # a polygon x, y, x, y, ... clipped to the image, or compressed run lengths
MOST_TIMES = 4  # a circle's largest radius in sides of the image; PIL takes hours for huge ones


def _corners(shape: Shape) -> np.ndarray:
    """The polygon that a shape of straight sides is."""
    if shape.kind != "rectangle":
        return shape.points
    (x1, y1), (x2, y2) = shape.points.min(0), shape.points.max(0)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _circle(shape: Shape, height: int, width: int) -> tuple[float, float, float]:
    """Centre x, y and radius of a circle: its points are the centre and one on the rim."""
    (x, y), (rim_x, rim_y) = shape.points
    radius = math.hypot(rim_x - x, rim_y - y)
    if radius == 0:
        raise LabelmeError("its circle has no radius")
    if radius > MOST_TIMES * max(height, width):
        raise LabelmeError(f"its circle's radius of {radius:.0f} pixels is far beyond the image")
    return x, y, radius


def _disc(shape: Shape, height: int, width: int) -> Rle:
    """Every pixel whose centre lies in the circle."""
    x, y, radius = _circle(shape, height, width)
    left, top = max(math.floor(x - radius), 0), max(math.floor(y - radius), 0)
    right, bottom = min(math.ceil(x + radius), width), min(math.ceil(y + radius), height)
    if right <= left or bottom <= top:
        raise LabelmeError("the circle lies outside the image")
    columns, rows = np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y
    return encode_patch(rows[:, None] ** 2 + columns**2 <= radius**2, top, left, height=height, width=width)


def _pasted(shape: Shape, height: int, width: int) -> tuple[Bool[np.ndarray, "ph pw"], int, int]:
    """(patch, top, left) of a mask shape, cut to the image: its PNG lies in the box of its two points."""
    try:
        picture = Image.open(io.BytesIO(shape.mask or b""), formats=["PNG"])  # reads the header alone
    except Exception:  # Pillow raises many kinds on damaged files
        raise LabelmeError("its mask is no PNG image of a usable size") from None
    box = shape.points.astype(int)
    (left, top), (right, bottom) = box.min(0).tolist(), box.max(0).tolist()
    size = f"its mask of {picture.width} x {picture.height} pixels"
    if abs(picture.height - (bottom - top + 1)) > 1 or abs(picture.width - (right - left + 1)) > 1:
        raise LabelmeError(f"{size} does not fit its box of {right - left + 1} x {bottom - top + 1}")
    if picture.height > 2 * height or picture.width > 2 * width:
        raise LabelmeError(f"{size} is far larger than the image")
    try:
        mask = np.asarray(picture) != 0  # of a palette the index counts, as in LabelMe
    except (OSError, ValueError, SyntaxError):
        raise LabelmeError("its mask cannot be decoded; draw it again") from None
    mask = mask.any(-1) if mask.ndim == 3 else mask
    patch = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    return patch, max(top, 0), max(left, 0)


def part_of(shape: Shape, height: int, width: int) -> Part:
    """The part of an image that a shape covers, in COCO's form.

    Raises:
        LabelmeError: it covers nothing, lies outside, or is a mask that cannot be read.
    """
    if shape.kind == "circle":
        part = _disc(shape, height, width)
    elif shape.kind == "mask":
        patch, top, left = _pasted(shape, height, width)
        part = encode_patch(patch, top, left, height=height, width=width) if patch.any() else None
    else:
        try:
            [polygon] = check_segmentation([_corners(shape).ravel().tolist()], height, width).outline
        except SegmentationError as error:
            raise LabelmeError(str(error)) from None
        return [round(v, 3) for v in polygon]  # type: ignore[arg-type]
    if part is None or not rle_tools.area(part):  # type: ignore[arg-type]
        raise LabelmeError(f"the {shape.kind} covers no pixel of the image")
    return part


def run_lengths(parts: list[Part], height: int, width: int) -> Rle:
    """The union of parts as pycocotools reads them, as compressed run lengths (`counts` bytes)."""
    polygons = [part for part in parts if isinstance(part, list)]
    others = [part for part in parts if not isinstance(part, list)]
    drawn: Any = rle_tools.frPyObjects(polygons, height, width) if polygons else []  # type: ignore[arg-type]
    both: Any = [*drawn, *others]
    return dict(rle_tools.merge(both))


def draw_shape(canvas: Image.Image, shape: Shape, value: int) -> None:
    """Draw a shape as LabelMe 3.16.2 does, over what is there. It is one that `part_of` takes."""
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    if shape.kind == "mask":
        patch, top, left = _pasted(shape, height, width)
        canvas.paste(value, (left, top), Image.fromarray(patch.astype(np.uint8) * 255))
    elif shape.kind == "circle":
        x, y, radius = _circle(shape, height, width)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    else:
        points = _corners(shape)
        if (np.abs(points) > 4 * max(height, width)).any():  # PIL walks along every pixel of a line, however far out
            [flat] = check_segmentation([points.ravel().tolist()], height, width).outline
            points = np.reshape(flat, (-1, 2))
        if shape.kind == "rectangle":
            draw.rectangle((*points.min(0).tolist(), *points.max(0).tolist()), fill=value, outline=value)
        else:
            draw.polygon([tuple(point) for point in points.tolist()], fill=value, outline=value)


def drawn_as_labelme(shapes: tuple[Shape, ...], height: int, width: int) -> Rle:
    """The pixels that LabelMe draws for shapes together, also for a sliver between pixel centres."""
    canvas = Image.new("L", (width, height))
    for shape in shapes:
        draw_shape(canvas, shape, 1)
    return encode_patch(*cut(np.asarray(canvas).astype(bool)), height=height, width=width)
