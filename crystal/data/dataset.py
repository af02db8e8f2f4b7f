"""A dataset in COCO's format, read once, checked, as plain records. Where its files lie: `coco_file.py`.

What training cannot use ends in a `DatasetError` (no such file, no such category) or, where only one annotation is at
fault, is left out and listed in `Split.problems`. `crystal check` reads the same way and lists everything. Runs in
input workers: no JAX.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from crystal.console import brief, printable
from crystal.data.coco_file import DatasetError, Images, find_json, load_json
from crystal.data.images import MAX_PIXELS
from crystal.data.problems import Effect, Problem
from crystal.data.segmentation import (
    Extent,
    Segmentation,
    SegmentationError,
    check_segmentation,
    draw_cells,
    region_around,
)

BACKGROUND_NAMES = {"background", "_background_", "__background__"}
BOX_TOLERANCE = 2.0  # pixels by which a file's box may differ from its outline's extent before the extent is used
AREA_SHARE = 0.1  # by which a file's area may differ from its pixels


def alike(names: Iterable[str]) -> list[str]:
    """The first names that differ only in upper and lower case or in their Unicode form; empty if none do.

    >>> alike(["crystal", "ice", "CRYSTAL", "Crystal"])
    ['CRYSTAL', 'Crystal', 'crystal']
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFKC", name).strip().casefold(), set()).add(name)
    return next((sorted(group) for group in groups.values() if len(group) > 1), [])


Categories = tuple[tuple[int, str], ...]


class Instance(NamedTuple):
    """One outlined object. `category` indexes `Split.categories`, 1 and up; `box` is (x1, y1, x2, y2) in continuous
    pixels of the image, inside it and not empty; a `crowd` is a region to ignore.
    """

    category: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    crowd: bool
    annotation_id: int
    area: float | None = None  # as the file states; evaluation uses it where it `fits_pixels`, training does not
    outlined: bool = True  # False where the outline could not be used: a crowd of the object's box


class Record(NamedTuple):
    """One image and its objects. `path` exists; `height` and `width` are as the file states, in pixels."""

    image_id: int
    path: Path
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...]


class Split(NamedTuple):
    """`categories`: (id in the file, name), background first, by id; `source`: the JSON file; `unlisted`: categories
    that the file does not have, of a network whose classes they are (`crystal.data.classes.with_classes_of`).
    """

    categories: Categories
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    source: Path
    unlisted: frozenset[int] = frozenset()


def _number(value: Any) -> int | None:
    """An id or a size, also where a program wrote 3.0 or "3"; None for anything else."""
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and value.isdecimal()):
        value = int(value) if len(str(value)) < 20 else None
    return value if type(value) is int and abs(value) < 2**63 else None


def _whole(entry: dict[str, Any], key: str, what: str) -> int:
    number = _number(entry.get(key))
    if number is None:
        raise DatasetError(f"{what} has {key} = {brief(entry.get(key))}; it must be a whole number")
    return number


def _categories(entries: list[dict[str, Any]], used: set[int | None]) -> tuple[Categories, dict[int, int]]:
    """The categories, background first, and category id -> index (0 for a background that is listed).

    Roboflow lists a root, the supercategory of all others, which no annotation uses (`used`: ids): it is no class.
    """
    names: dict[int, str] = {}
    for entry in entries:
        name, number = entry.get("name", ""), _whole(entry, "id", "a category")
        name = name if isinstance(name, str) else brief(name)
        if names.setdefault(number, name) != name:
            raise DatasetError(f"two categories have the id {number}; number them anew")
    real = sorted(number for number, name in names.items() if name not in BACKGROUND_NAMES)
    for root in [number for number in real if number not in used]:
        others = [entry.get("supercategory") for entry in entries if _number(entry.get("id")) in set(real) - {root}]
        if others and all(parent == names[root] for parent in others):
            real.remove(root)
    if not real:
        raise DatasetError("lists no categories besides background; add at least one")
    index = {number: 0 for number in names} | {number: i for i, number in enumerate(real, start=1)}
    return ((0, "background"), *((number, names[number]) for number in real)), index


def _image(entry: dict[str, Any], known: dict[int, Any], images: Images) -> Record:
    """The record of an image, without its objects."""
    number = _whole(entry, "id", "an image")
    what = f"image {number}"
    if number in known:
        raise DatasetError(f"two images have the id {number}; number them anew")
    height, width = _whole(entry, "height", what), _whole(entry, "width", what)
    name = entry.get("file_name")
    if min(height, width) < 1 or not isinstance(name, str):
        raise DatasetError(f"{what} needs a file_name and a positive height and width")
    if height * width > MAX_PIXELS:
        raise DatasetError(
            f"{what} states {width} x {height} pixels, more than {MAX_PIXELS // 10**6} megapixels; correct "
            "that or cut the image"
        )
    return Record(number, images.find(name), name, height, width, ())


def _file_box(bbox: Any, height: int, width: int) -> tuple[float, float, float, float] | None:
    """The file's own box, clipped to the image; None if it is missing, no box, or empty."""
    try:
        x, y, w, h = (float(v) for v in bbox)
    except (TypeError, ValueError, OverflowError):
        return None
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None  # false for NaN as well


def _place(entry: dict[str, Any], height: int, width: int) -> Extent | None:
    """Where an object is whose outline cannot be used: its box, or else the extent of what its polygons hold."""
    box = _file_box(entry.get("bbox"), height, width)
    if box is not None:
        return box
    parts = entry.get("segmentation")
    if not isinstance(parts, list):
        return None
    return region_around([v for part in parts for v in (part if isinstance(part, list) else [part])], height, width)


def read_instance(
    entry: dict[str, Any], record: Record, category: int, *, crowds_as_objects: bool = False
) -> tuple[Instance | None, list[tuple[str, Effect]]]:
    """One of COCO's annotations as an instance of that category, or None, and (problem, effect) pairs about it.

    An object whose outline cannot be used is no background: where its box or its points say where it is, it becomes a
    crowd there.
    """
    number = _number(entry.get("id")) or 0
    if category == 0:
        return None, [("its category is background", Effect.LEFT_OUT)]
    try:
        checked = check_segmentation(entry.get("segmentation"), record.height, record.width)
    except SegmentationError as error:
        place = _place(entry, record.height, record.width)
        if place is None:
            return None, [(str(error), Effect.LEFT_OUT)]
        x1, y1, x2, y2 = place
        outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        return Instance(category, place, outline, True, number, outlined=False), [(str(error), Effect.PLACE_IGNORED)]
    problems = [(reason, Effect.REST_USED) for reason in checked.left_out]
    if checked.clipped:
        problems.append(("the polygon reaches outside the image", Effect.CLIPPED))
    box = _file_box(entry.get("bbox"), record.height, record.width)
    # The box counts if it fits: it is what COCO's evaluation uses. Otherwise the outline is right by definition.
    if box is None or max(abs(a - b) for a, b in zip(box, checked.extent, strict=True)) > BOX_TOLERANCE:
        problems.append(("its bbox does not fit its outline", Effect.MENDED))
        box = checked.extent
    crowd, area = entry.get("iscrowd", 0), entry.get("area")
    if crowd not in (0, 1):
        problems.append(("its iscrowd is neither 0 nor 1", Effect.AN_OBJECT))
    area = float(area) if isinstance(area, int | float) and abs(area) < 1e15 else None
    return Instance(category, box, checked.outline, crowd == 1 and not crowds_as_objects, number, area), problems


def read_split(source: Path, split: str, *, crowds_as_objects: bool = False) -> Split:
    """Read a COCO file and collect its problems; what training refuses is among them as `Effect.REFUSED`.

    Args:
        source: the file.
        split: helps to find the images.
        crowds_as_objects: whether to ignore `iscrowd`, which CVAT sets for each mask made with a brush.

    Raises:
        DatasetError: it is no COCO file, or lists no categories.
    """
    document = load_json(source)
    try:
        used = {_number(entry.get("category_id")) for entry in document["annotations"]}
        categories, index = _categories(document["categories"], used)
    except DatasetError as error:
        raise DatasetError(f"{source}: {error}") from None

    problems: list[Problem] = []
    records: dict[int, Record] = {}
    refused: set[int | None] = set()
    images = Images(source, split)
    for entry in document["images"]:
        try:
            record = _image(entry, records, images)
            records[record.image_id] = record
        except DatasetError as error:
            name = entry.get("file_name")
            problems.append(
                Problem(name if isinstance(name, str) and name else source.name, None, str(error), Effect.REFUSED)
            )
            refused |= {_number(entry.get("id"))}

    instances: dict[int, list[Instance]] = {number: [] for number in records}
    for entry in document["annotations"]:
        number, image_id, category = (_number(entry.get(key)) for key in ("id", "image_id", "category_id"))
        record = records.get(image_id) if image_id is not None else None
        where = record.file_name if record else source.name
        if category not in index:
            text = f"the category {brief(entry.get('category_id'))} is not among the file's"
            text += "; add it there or correct the annotation"
            problems.append(Problem(where, number, text, Effect.REFUSED))
        elif record:
            instance, own = read_instance(entry, record, index[category], crowds_as_objects=crowds_as_objects)
            problems += [Problem(where, number, text, effect) for text, effect in own]
            instances[record.image_id] += [instance] if instance else []
        elif image_id is None or image_id not in refused:
            text = f"no image has the id {brief(entry.get('image_id'))}"
            problems.append(Problem(where, number, text, Effect.LEFT_OUT))
    found = tuple(record._replace(instances=tuple(instances[number])) for number, record in records.items())
    return Split(categories, found, tuple(problems), source)


def load_split(dataset: str | Path, split: str, *, crowds_as_objects: bool = False) -> Split:
    """Read one split of a dataset to train or evaluate on.

    Args:
        dataset: the folder, or a COCO JSON file itself.
        split: "train", "val", ...; where `dataset` is a file it only helps to find the images.
        crowds_as_objects: whether to take annotations with `iscrowd` 1 for objects, not for regions to ignore.

    Returns:
        Records in the file's order, images without objects included.

    Raises:
        DatasetError: missing folder, JSON or images; malformed JSON; an unknown category; two images of one id.
    """
    found = read_split(find_json(Path(dataset), split), split, crowds_as_objects=crowds_as_objects)
    refused = [problem for problem in found.problems if problem.effect is Effect.REFUSED]
    if refused:
        first, more = refused[0], len(refused) - 1
        which = "" if first.file_name == found.source.name else f"{printable(first.file_name)}: "
        which += "" if first.annotation_id is None else f"annotation {brief(first.annotation_id)}: "
        also = f" (and {more} more of such problems; `crystal check` lists them)" if more else ""
        raise DatasetError(f"{found.source}: {which}{first.text}{also}")
    return found


def nothing_to_learn(split: Split) -> str | None:
    """Why there is no object in a split, and what to do; None where there is one."""
    instances = [instance for record in split.records for instance in record.instances]
    if any(not instance.crowd for instance in instances):
        return None
    crowds = sum(instance.outlined for instance in instances)
    unread = [problem for problem in split.problems if problem.effect in (Effect.PLACE_IGNORED, Effect.LEFT_OUT)]
    if crowds:
        return (
            f"none of its annotations is an object: {crowds} are crowds (iscrowd 1), which are ignored; take them for "
            "objects by --crowds-as-objects (CVAT exports brush masks as crowds), or outline some objects"
        )
    if unread:
        return f"none of its {len(unread)} annotations can be used, the first since {unread[0].text}; correct them"
    return "it has no annotations, so there is nothing to learn; outline some objects"


def raise_if_nothing_to_learn(split: Split) -> None:
    """Refuse to train on a split without an object.

    Raises:
        DatasetError: there is none, because of crowds, outlines that cannot be used, or no annotations at all.
    """
    if not split.records:
        raise DatasetError(f"{split.source}: lists no images, so there is nothing to train on; add some")
    reason = nothing_to_learn(split)
    if reason:
        raise DatasetError(f"{split.source}: {reason}")


def left_out(split: Split, *, measured: bool = False) -> str:
    """A sentence for the end of a job that names the first annotations that were left out; "" if there are none.

    Where the split is `measured` on, those whose place is ignored are among them: they can be neither found nor missed.
    """
    effects = (Effect.LEFT_OUT, Effect.PLACE_IGNORED) if measured else (Effect.LEFT_OUT,)
    problems = [one for one in split.problems if one.effect in effects]
    if not problems:
        return ""
    first = "; ".join(str(problem).removesuffix(f"; {problem.effect.words}") for problem in problems[:3])
    count = f"{len(problems)} annotation(s) that cannot be used"
    return f"{split.source}: done without {count} ({first}); correct or remove them"


def fits_pixels(instance: Instance, pixels: int) -> bool:
    """Whether the file's area can be that of the outline, which covers `pixels` pixels.

    A difference of a tenth is allowed, and half a pixel around the box, by which a polygon's own area may differ.
    """
    if instance.area is None:
        return False
    x1, y1, x2, y2 = instance.box
    return abs(instance.area - pixels) <= AREA_SHARE * pixels + (x2 - x1) + (y2 - y1)


def box_mask(instance: Instance, height: int, width: int, size: int) -> UInt8[np.ndarray, "m m"]:
    """The instance's mask relative to its box, 0 or 1: cell (i, j) of [size, size] covers that share of the box.

    Draws only the box's part of the image, so the image's size costs nothing. `maskrcnn_jax.roi.masks.paste` is the
    inverse.
    """
    return draw_cells(instance.segmentation, instance.box, height, width, size)
