"""LabelMe files in COCO's format: `to_coco`, and `convert_file` for one of them.

Ids count from 1, categories are sorted by name and hold no background. Polygons stay polygons; masks, circles, crowds
and slivers that fall between pixel centres become run lengths. A shape that cannot be used becomes a crowd where it
lies, so that it is not taught as background. `area` and `bbox` are those of the pixels that pycocotools gives the
annotation.
"""

import hashlib
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from pycocotools import mask as rle_tools

from crystal.console import brief, printable
from crystal.data.coco_file import coco_annotation, coco_document
from crystal.data.dataset import BOX_TOLERANCE
from crystal.data.images import ImageError, decode_image, stated_size
from crystal.data.labelme.document import Document, LabelmeError, Omission, Region, Shape, read_document
from crystal.data.labelme.labels import LabelRules
from crystal.data.labelme.objects import LabelledObject, group_shapes
from crystal.data.labelme.pixels import Part, Rle, drawn_as_labelme, part_of, run_lengths
from crystal.data.outlines import encode_patch
from crystal.data.segmentation import region_around
from crystal.files import distinct_stem, files_below

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
LEAST_REGION = 16.0  # pixels across what is ignored around a point or a line, which has no width of its own
NO_RULES = LabelRules()
INFO = {"description": "Converted from LabelMe by crystal", "version": "1.0"}


class Converted(NamedTuple):
    """One LabelMe file, converted.

    Attributes:
        pixels: RGB, upright as LabelMe shows it.
        encoded: an image file of those pixels that any program shows the same way, if the source was one.
        suffix: of the image file to write, ".jpg" or ".png".
        content: a hash of the pixels.
        annotations: of COCO's format, without ids, categories by name.
        regions: annotations too, crowds where shapes lie that could not be used; their categories, "" if unknown, may
            be those of no object.
        objects: one an annotation, with the shapes that were used.
        rles: their pixels, one an annotation.
        problems: what was left out.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    encoded: bytes | None
    suffix: str
    content: str
    annotations: list[dict[str, Any]]
    regions: list[dict[str, Any]]
    objects: list[LabelledObject]
    rles: list[Rle]
    problems: list[Omission]


def _upright(data: bytes) -> bool:
    """Whether every reader shows a JPEG or PNG as stored; False where its EXIF cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as picture:
            return picture.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # Pillow raises many kinds on damaged EXIF; then the pixels are written anew
        return False


def _decode(document: Document) -> UInt8[np.ndarray, "h w 3"]:
    """The image as LabelMe shows it; refused before a pixel is decoded where its header does not fit the JSON."""
    try:
        claim = stated_size(document.image, "its image")
    except ImageError as error:
        raise LabelmeError(str(error)) from error
    if claim is None:
        raise LabelmeError("its image is no JPEG, PNG, TIFF, BMP, WebP or GIF, or is damaged; export it again")
    stated = tuple(given or actual for given, actual in zip(document.size, claim, strict=True))
    turned = tuple(given or actual for given, actual in zip(document.size, claim[::-1], strict=True))
    pixels = None
    if claim == stated or (document.upright and claim[::-1] == turned):
        try:
            pixels = decode_image(document.image, "its image", upright=document.upright, page="first")
        except ImageError as error:
            raise LabelmeError(str(error)) from error
        claim = pixels.shape[:2]
        stated = tuple(given or actual for given, actual in zip(document.size, claim, strict=True))
    if pixels is None or claim != stated:
        raise LabelmeError(
            f"it states an image of {brief(stated[1])} x {brief(stated[0])} pixels and the "
            f"image has {claim[1]} x {claim[0]}, so the outlines may not fit; open it in LabelMe, check, and save it"
        )
    return pixels


def _spiked_box(parts: list[list[float]], box: list[int]) -> list[float]:
    """COCO's x, y, width, height: of the pixels, or of the outline where a spike too thin for pixels leads far beyond
    them, because the loader rejects a box that does not fit its outline.
    """
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts])
    (x1, y1), (x2, y2), (x, y, w, h) = points.min(0).tolist(), points.max(0).tolist(), box
    if max(abs(x1 - x), abs(y1 - y), abs(x2 - x - w), abs(y2 - y - h)) <= BOX_TOLERANCE:
        return [*box]
    return [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]


def _annotation(labelled: LabelledObject, parts: list[Part], height: int, width: int) -> tuple[dict[str, Any], Rle]:
    rle = run_lengths(parts, height, width)
    polygons = [part for part in parts if isinstance(part, list)]
    if not rle_tools.area(rle):  # type: ignore[arg-type]
        rle, polygons = drawn_as_labelme(labelled.shapes, height, width), []
    if len(polygons) < len(parts) or labelled.crowd:
        polygons = []
    annotation = coco_annotation(rle, labelled.category, polygons=polygons, crowd=labelled.crowd)
    if polygons:
        annotation["bbox"] = _spiked_box(polygons, annotation["bbox"])
    return annotation, rle


def _extent(shape: Shape) -> Float[np.ndarray, "2 2"]:
    """Two opposite corners of what holds a shape."""
    if shape.kind == "circle":
        radius = np.hypot(*(shape.points[1] - shape.points[0]))
        return np.stack([shape.points[0] - radius, shape.points[0] + radius])
    return np.stack([shape.points.min(0), shape.points.max(0)])


def _region(region: Region, rules: LabelRules, height: int, width: int) -> list[dict[str, Any]]:
    """A crowd where a shape lies that cannot be used; none where that is outside the image."""
    box = region_around(region.points, height, width, least=LEAST_REGION)
    if box is None:
        return []
    (left, top), (right, bottom) = (int(v) for v in box[:2]), (math.ceil(v) for v in box[2:])
    rle = encode_patch(np.ones((bottom - top, right - left), bool), top, left, height=height, width=width)
    meaning = rules.category(region.label) if region.label else None
    return [coco_annotation(rle, meaning.category if meaning else "", crowd=True)]


def convert_file(path: Path, rules: LabelRules = NO_RULES) -> Converted:
    """Read a LabelMe file and its image.

    Raises:
        LabelmeError: the file cannot be used; the message says why, without its name.
    """
    document = read_document(path, rules)
    pixels = _decode(document)
    height, width = pixels.shape[:2]
    problems, regions = list(document.problems), list(document.regions)

    parts: dict[int, Part] = {}
    used: list[Shape] = []
    for shape in document.shapes:
        try:
            parts[shape.number] = part_of(shape, height, width)
            used.append(shape)
        except LabelmeError as error:
            problems.append(Omission(path, shape.number, f"left out: {error}"))
            regions.append(Region(shape.label, _extent(shape)))
    objects = group_shapes(used, rules)
    made = [_annotation(one, [parts[shape.number] for shape in one.shapes], height, width) for one in objects]

    jpeg, png = document.image.startswith(b"\xff\xd8"), document.image.startswith(b"\x89PNG")
    return Converted(
        pixels=pixels,
        encoded=document.image if (jpeg or png) and _upright(document.image) else None,
        suffix=".jpg" if jpeg and _upright(document.image) else ".png",
        content=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        annotations=[annotation for annotation, _ in made],
        regions=[found for region in regions for found in _region(region, rules, height, width)],
        objects=objects,
        rles=[rle for _, rle in made],
        problems=sorted(problems, key=lambda problem: problem.shape or 0),
    )


def explain(path: Path, error: Exception) -> Omission:
    """Why a whole file was left out. Unforeseen errors too: one odd file must not stop the conversion of the others."""
    if isinstance(error, LabelmeError):
        return Omission(path, None, str(error))
    return Omission(
        path, None, f"fails with an unforeseen error ({type(error).__name__}: {printable(str(error), 200)})"
    )


def find_labelme(paths: Iterable[str | Path]) -> tuple[list[Path], list[Omission]]:
    """The JSON files named, and those in the folders named, at any depth, each once, in the order of their names.

    Args:
        paths: files and folders; a file that is named is taken whatever its suffix. Hidden ones in folders are not.

    Returns:
        The files, and a problem for each path that does not exist and each folder that cannot be listed.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in map(Path, paths):
        if path.is_dir():
            for below in sorted(files_below(path)):
                if below.is_dir():
                    problems.append(Omission(below, None, "the folder cannot be listed; check its permissions"))
                elif below.suffix.lower() == ".json":
                    found[below] = None
        elif path.exists():
            found[path] = None
        else:
            problems.append(Omission(path, None, "there is no such file or folder; check the path"))
    return list(found), problems


def to_coco(
    paths: Iterable[str | Path] | str | Path, *, rules: LabelRules = NO_RULES
) -> tuple[dict[str, Any], list[Omission]]:
    """Convert LabelMe files to one COCO document, in memory.

    Args:
        paths: files or folders.
        rules: which labels are renamed or dropped; background and `__ignore__` are dropped anyway.

    Returns:
        The COCO dict, and what was left out: files that cannot be used are not among its images, shapes that cannot be
        used not among its annotations. `file_name` is the JSON's name with the image's suffix; there need be no such
        file, as the image may be embedded. `crystal convert` writes images of these names.
    """
    files, problems = find_labelme([paths] if isinstance(paths, str | Path) else paths)
    images, taken = [], set()
    for path in files:
        try:
            converted = convert_file(path, rules)
        except Exception as error:
            problems.append(explain(path, error))
            continue
        problems += converted.problems
        height, width = converted.pixels.shape[:2]
        name = distinct_stem(path, taken) + converted.suffix
        images.append(({"file_name": name, "height": height, "width": width}, converted))
    names = sorted({annotation["category_id"] for _, own in images for annotation in own.annotations})
    annotated = [(image, [*own.annotations, *own.regions]) for image, own in images]
    return coco_document(annotated, names, **INFO), problems
