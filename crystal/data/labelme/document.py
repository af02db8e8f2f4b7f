"""One LabelMe JSON file, checked: the shapes that can be used, what is wrong with the others, and the image's bytes.

Fields changed over the versions (3.16.2 has no `version`, `shape_type` or `group_id` in many files, 4.0 brought
`group_id`, 5 `shape_type: mask`, 6 `oriented_rectangle`; X-AnyLabeling gives rectangles four corners and has a
`rotation`), and people and programs write them wrong, so every field is checked. A file that cannot be used raises
`LabelmeError`; a shape that cannot be used is an `Omission`, and, where its points say where it is, a `Region`.

Where the image comes from, as in LabelMe's own window:
- Embedded `imageData` wins, and is shown as stored: EXIF orientation is not applied.
- Otherwise `imagePath`, relative to the JSON, which may lead out of the folder (`../images/a.jpg`) or be absolute: it
  is the user's own file, it is only read, and only if it is a regular file and an image. Backslashes
  separate folders; where a path does not exist here, a file of that name beside the JSON is taken. EXIF orientation is
  applied. Devices, pipes and addresses on the web are refused, as are files that are too large.
"""

import base64
import binascii
import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from crystal.console import brief, printable
from crystal.data.json_text import JsonError, parse_json
from crystal.data.labelme.labels import LabelRules
from crystal.data.outlines import crosses_itself
from crystal.errors import CrystalError
from crystal.files import spellings

MAX_BYTES = 2**29  # of an image file
MAX_JSON_BYTES = 2**28  # parsed JSON takes some ten times its size; an embedded image of 200 MB still fits
LONGEST_LABEL = 500  # characters of a label or a path
MAX_COORDINATE = 1e7  # pixels; far outside any image, and far below where arithmetic on pixels overflows
NO_AREA = ("line", "linestrip", "point", "points")
FOUR_CORNERS = ("oriented_rectangle", "rotation", "quadrilateral")  # the last two are X-AnyLabeling's
SHAPE_TYPES = ("polygon", "rectangle", "circle", "mask", *FOUR_CORNERS, *NO_AREA)
# (least, most) points of a shape; LabelMe itself closes a polygon at three.
POINTS = {"rectangle": (2, 2), "oriented_rectangle": (4, 4), "circle": (2, 2), "mask": (2, 2), "polygon": (3, math.inf)}


class LabelmeError(CrystalError, ValueError):
    """A LabelMe file that cannot be used; the message says why, without its name: `Omission` adds that."""


class Omission(NamedTuple):
    """What was left out, and why. `shape` counts from 1 in the file's order; None: the whole file."""

    path: Path
    shape: int | None
    text: str

    def __str__(self) -> str:
        which = "" if self.shape is None else f"shape {self.shape}: "
        return f"{printable(str(self.path), LONGEST_LABEL)}: {which}{self.text}"


class Shape(NamedTuple):
    """A shape with an area. `points` are (x, y) in continuous pixels of the image; `mask` is a PNG, for that kind."""

    number: int
    label: str
    kind: str
    points: Float[np.ndarray, "n 2"]
    group: int | str | None
    crowd: bool
    mask: bytes | None


class Region(NamedTuple):
    """Where a shape lies that cannot be used, so that it is not taken for background: `points` as in a `Shape`."""

    label: str | None
    points: Float[np.ndarray, "n 2"]


class Document(NamedTuple):
    """A LabelMe file: `image` is the image file's content, `upright` whether its EXIF orientation applies, `size` the
    (height, width) that the JSON states, None for what it does not.
    """

    path: Path
    shapes: tuple[Shape, ...]
    regions: tuple[Region, ...]
    problems: tuple[Omission, ...]
    image: bytes
    upright: bool
    size: tuple[int | None, int | None]


def tidy(label: str) -> str:
    """A label as it is compared and written: one line, single spaces.

    >>> tidy(" large  crystal ")
    'large crystal'
    """
    return printable(" ".join(label.split()), LONGEST_LABEL)


def _read(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():  # a device or a pipe would never end
            raise LabelmeError("there is no such file" if not path.exists() else "is no regular file")
        if path.stat().st_size > most:
            raise LabelmeError(f"is larger than {most // 2**20} MB")
        return path.read_bytes()
    except OSError as error:
        raise LabelmeError(f"cannot be read ({error.strerror or error}); check its permissions") from error


def _parse(data: bytes) -> dict[str, Any]:
    try:
        content = parse_json(data)
    except JsonError as error:
        raise LabelmeError(str(error)) from None
    if not isinstance(content, dict):
        raise LabelmeError("is not a LabelMe file: it holds no object; remove it")
    if not isinstance(content.get("shapes"), list):
        what = "it is a COCO file" if "annotations" in content else "it has no list of shapes"
        raise LabelmeError(f"is not a LabelMe file: {what}; remove it, or leave it out")
    return content


def _referenced(path: Path, image_path: Any) -> Path:
    if not isinstance(image_path, str) or not image_path.strip() or "\0" in image_path:
        raise LabelmeError("has neither imageData nor an imagePath; open it in LabelMe and save it again")
    shown = repr(printable(image_path, 100))
    if "://" in image_path:
        raise LabelmeError(f"its imagePath {shown} is an address; download the image and put its file name there")
    slashed = image_path.replace("\\", "/")
    # The last is for folders that were renamed, and another machine's absolute paths.
    for candidate in (own for one in (image_path, slashed, slashed.rsplit("/", 1)[-1]) for own in spellings(one)):
        try:
            if candidate and (path.parent / candidate).is_file():
                return path.parent / candidate
        except (OSError, ValueError):  # a name too long, or one that cannot be encoded
            continue
    raise LabelmeError(f"its image {shown} does not exist or is no regular file; put it there, or correct imagePath")


def _image(path: Path, content: dict[str, Any]) -> tuple[bytes, bool]:
    """The image's bytes, and whether EXIF applies."""
    embedded = content.get("imageData")
    if embedded not in (None, ""):
        if not isinstance(embedded, str):
            raise LabelmeError("its imageData is no text; save it again in LabelMe")
        try:
            return base64.b64decode(embedded), False
        except (binascii.Error, ValueError):
            raise LabelmeError("its imageData is damaged; remove it if imagePath is right") from None
    image_path = _referenced(path, content.get("imagePath"))
    try:
        return _read(image_path, MAX_BYTES), True
    except LabelmeError as error:
        raise LabelmeError(f"its image {printable(str(image_path))} {error}") from error


def _stated(content: dict[str, Any], key: str) -> int | None:
    """A size that the JSON states; None where it is no number."""
    value = content.get(key)
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _points(value: Any) -> Float[np.ndarray, "n 2"]:
    if not isinstance(value, list) or not value:
        raise LabelmeError("it has no points")
    for point in value:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise LabelmeError("its points are not a list of [x, y]")
        if not all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in point):  # false for NaN as well
            raise LabelmeError(f"the point {brief(point)} is not a pair of usable numbers")
    return np.array(value, np.float64)


def _four_corners(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "k 2"]:
    """The corners of a quadrangle in order around it; without the last one where that closes it."""
    if len(points) == 5 and (points[0] == points[-1]).all():
        points = points[:4]
    if len(points) == 4 and crosses_itself(points):
        x, y = (points - points.mean(0)).T
        points = points[np.argsort(np.arctan2(y, x))]
    return points


def _group(value: Any) -> int | str | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise LabelmeError(f"its group_id is {brief(value)}; it must be a whole number or null")


def _mask(value: Any) -> bytes:
    if not isinstance(value, str) or not value:
        raise LabelmeError("it is a mask without mask data")
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        raise LabelmeError("its mask data is damaged") from None


def read_shape(entry: Any, number: int) -> Shape:
    """Check a shape of the JSON. Raises LabelmeError, also for kinds without an area."""
    if not isinstance(entry, dict):
        raise LabelmeError("it is no object")
    label = entry.get("label")
    if not isinstance(label, str) or not label.strip():
        raise LabelmeError(f"its label is {brief(label)}; it must be a name")
    kind = entry.get("shape_type")
    kind = "polygon" if kind is None else kind
    if kind not in SHAPE_TYPES:
        raise LabelmeError(f"its shape_type is {brief(kind)}, which LabelMe does not know")
    if kind in NO_AREA:
        raise LabelmeError(f"a {kind} ({printable(label, 40)}) covers no area")
    points = _points(entry.get("points"))
    if kind in FOUR_CORNERS or (kind == "rectangle" and len(points) in (4, 5)):
        kind, points = "oriented_rectangle", _four_corners(points)
    least, most = POINTS[kind]
    if not least <= len(points) <= most:
        raise LabelmeError(f"it is a {kind} of {len(points)} point(s)")
    flags = entry.get("flags")
    return Shape(
        number=number,
        label=tidy(label),
        kind=kind,
        points=points,
        group=_group(entry.get("group_id")),
        crowd=isinstance(flags, dict) and flags.get("crowd") is True,
        mask=_mask(entry.get("mask")) if kind == "mask" else None,
    )


def read_labels(path: Path, rules: LabelRules) -> set[str]:
    """The categories of a LabelMe file's shapes; empty where it cannot be used."""
    try:
        shapes = _parse(_read(path, MAX_JSON_BYTES))["shapes"]
    except LabelmeError:
        return set()
    labels = {entry["label"] for entry in shapes if isinstance(entry, dict) and isinstance(entry.get("label"), str)}
    meanings = [rules.category(tidy(label)) for label in labels if label.strip()]
    return {meaning.category for meaning in meanings if meaning}


def read_document(path: Path, rules: LabelRules) -> Document:
    """Read and check a LabelMe file; shapes whose label the rules drop are not checked.

    Raises:
        LabelmeError: the file cannot be used; the message says why, without its name.
    """
    content = _parse(_read(path, MAX_JSON_BYTES))
    image, upright = _image(path, content)
    shapes, regions, problems = [], [], []
    for number, entry in enumerate(content["shapes"], 1):
        label = entry.get("label") if isinstance(entry, dict) else None
        if isinstance(label, str) and rules.category(tidy(label)) is None:
            continue
        try:
            shapes.append(read_shape(entry, number))
        except LabelmeError as error:
            problems.append(Omission(path, number, f"left out: {error}"))
            with contextlib.suppress(LabelmeError):
                label = tidy(label) if isinstance(label, str) else None
                regions.append(Region(label, _points(entry.get("points") if isinstance(entry, dict) else None)))
    size = _stated(content, "imageHeight"), _stated(content, "imageWidth")
    return Document(path, tuple(shapes), tuple(regions), tuple(problems), image, upright, size)
