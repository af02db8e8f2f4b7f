"""A dataset in COCO's format, read once, checked, and kept as plain records.

Where things lie: `DATASET/{split}.json` with `DATASET/{split}/images/`, as `crystal render` and `crystal convert` write
it, or COCO's own `annotations/instances_{split}2017.json` with `{split}2017/`, or most mixtures of the two.

What cannot be trained on ends in a `DatasetError` (no such file, no such category) or, where one annotation is at fault
and the rest is fine, is left out and listed in `Split.problems`. Runs in input workers: no JAX.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from crystal.errors import CrystalError
from crystal.segmentation import Segmentation, SegmentationError, check_segmentation, draw_cells, draw_pixels

BACKGROUND_NAMES = {"background", "_background_", "__background__"}
BOX_TOLERANCE = 2.0  # pixels by which a file's box may differ from its outline's extent before the extent is used
PATTERNS = ("{}.json", "annotations/{}.json", "instances_{}*.json", "annotations/instances_{}*.json")


class DatasetError(CrystalError, ValueError):
    """A dataset that cannot be used; the message names the file and the remedy."""


class Problem(NamedTuple):
    """What was left out or mended, and why."""

    file_name: str
    annotation_id: int | None
    text: str
    left_out: bool = False  # the whole annotation, not only a part of it

    def __str__(self) -> str:
        which = "" if self.annotation_id is None else f"annotation {self.annotation_id}: "
        return f"{self.file_name}: {which}{self.text}"


class Instance(NamedTuple):
    """One outlined object. `category` indexes `Split.categories`, 1 and up; `box` is (x1, y1, x2, y2) in continuous
    pixels of the image, inside it and not empty; a `crowd` is a region to ignore.
    """

    category: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    crowd: bool
    annotation_id: int


class Record(NamedTuple):
    """One image and its objects. `path` exists; `height` and `width` are what the file says, in pixels."""

    image_id: int
    path: Path
    file_name: str
    height: int
    width: int
    instances: tuple[Instance, ...]


class Split(NamedTuple):
    """`categories`: (id in the file, name), background first, by id; `source`: the JSON file."""

    categories: tuple[tuple[int, str], ...]
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    source: Path


def _find_json(dataset: Path, split: str) -> Path:
    if dataset.is_file():
        return dataset
    if not dataset.is_dir():
        raise DatasetError(f"{dataset}: there is no such dataset; render one with `crystal render` or check the path")
    for pattern in PATTERNS:
        found = sorted(dataset.glob(pattern.format(split)))
        if found:
            return found[0]
    looked = ", ".join(pattern.format(split) for pattern in PATTERNS)
    raise DatasetError(
        f"{dataset}: no annotations for the split {split!r}; put a COCO file there (looked for {looked})"
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not valid JSON ({error}); write it again") from error
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{path}: has no list of {key}; it must be a COCO instances file")
    return document


def _whole(entry: dict[str, Any], key: str, path: Path, what: str) -> int:
    value = entry.get(key)
    if type(value) is float and value.is_integer():  # some writers put 3.0
        value = int(value)
    if type(value) is not int or abs(value) >= 2**63:
        raise DatasetError(f"{path}: {what} has {key} = {str(value)[:40]}; it must be a whole number")
    return value


def _categories(entries: list[dict[str, Any]], path: Path) -> tuple[tuple[tuple[int, str], ...], dict[int, int]]:
    """The categories, background first, and category id -> index (0 for a background that is listed)."""
    names = {_whole(entry, "id", path, "a category"): str(entry.get("name", "")) for entry in entries}
    real = sorted(number for number, name in names.items() if name not in BACKGROUND_NAMES)
    if not real:
        raise DatasetError(f"{path}: lists no categories besides background; add at least one")
    index = {number: 0 for number in names} | {number: i for i, number in enumerate(real, start=1)}
    return ((0, "background"), *((number, names[number]) for number in real)), index


def _image_folders(source: Path, split: str) -> list[Path]:
    root = source.parent.parent if source.parent.name == "annotations" else source.parent
    stem = source.stem.removeprefix("instances_")
    names = (f"{stem}/images", stem, f"{split}/images", split, f"images/{stem}", f"images/{split}", "images", "")
    return list(dict.fromkeys(root / name for name in names))


def _locate(file_names: list[str], source: Path, split: str) -> list[Path]:
    """Where each image lies. The folder that held the last one is tried first."""
    folders = _image_folders(source, split)
    paths, missing = [], []
    for name in file_names:
        relative = name.replace("\\", "/")
        hit = next((folder for folder in folders if (folder / relative).is_file()), None) if name else None
        if hit is None:
            missing.append(name)
            continue
        paths.append(hit / relative)
        folders.sort(key=lambda folder: folder != hit)
    if missing:
        raise DatasetError(
            f"{source}: names {len(missing)} image(s) that do not exist, the first {missing[0]!r} (looked in "
            f"{', '.join(str(folder) for folder in folders[:3])}, ...); copy them there or take them out of the file"
        )
    return paths


def _number(entry: dict[str, Any]) -> int | None:
    """An annotation's id, where it is one."""
    return entry["id"] if type(entry.get("id")) is int else None


def _file_box(bbox: Any, height: int, width: int) -> tuple[float, float, float, float] | None:
    """The file's own box, clipped to the image; None if there is none to speak of."""
    try:
        x, y, w, h = (float(v) for v in bbox)
    except (TypeError, ValueError, OverflowError):
        return None
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None  # false for NaN as well


def _instance(entry: dict[str, Any], record: dict[str, Any], category: int) -> tuple[Instance | None, list[str]]:
    """The instance, or None, and what is to be said about it."""
    height, width = record["height"], record["width"]
    if category == 0:
        return None, ["left out: its category is background"]
    try:
        segmentation, extent, complaints = check_segmentation(entry.get("segmentation"), height, width)
    except SegmentationError as error:
        return None, [f"left out: {error}"]
    said = [f"a part was left out: {complaint}" for complaint in complaints]
    box = _file_box(entry.get("bbox"), height, width)
    # The box counts if it fits: it is what COCO's evaluation uses. Otherwise the outline is right by definition.
    if box is None or max(abs(a - b) for a, b in zip(box, extent, strict=True)) > BOX_TOLERANCE:
        said.append("its bbox does not fit its outline; the outline's extent is used")
        box = extent
    return Instance(category, box, segmentation, bool(entry.get("iscrowd", 0)), _number(entry) or 0), said


def load_split(dataset: str | Path, split: str) -> Split:
    """Read one split of a dataset.

    Args:
        dataset: the folder, or a COCO JSON file itself.
        split: "train", "val", ...; where `dataset` is a file it only helps to find the images.

    Returns:
        Records in the file's order, images without objects included.

    Raises:
        DatasetError: missing folder, JSON or images; malformed JSON; an unknown category; two images of one id.
    """
    source = _find_json(Path(dataset), split)
    document = _load_json(source)
    categories, index = _categories(document["categories"], source)

    images: dict[int, dict[str, Any]] = {}
    for entry in document["images"]:
        number = _whole(entry, "id", source, "an image")
        if number in images:
            raise DatasetError(f"{source}: two images have the id {number}; number them anew")
        what = f"image {number}"
        height, width = _whole(entry, "height", source, what), _whole(entry, "width", source, what)
        if min(height, width) < 1 or not isinstance(entry.get("file_name"), str):
            raise DatasetError(f"{source}: {what} needs a file_name and a positive height and width")
        images[number] = {"file_name": entry["file_name"], "height": height, "width": width, "instances": []}

    problems: list[Problem] = []
    for entry in document["annotations"]:
        category = entry.get("category_id")
        if not isinstance(category, int | float) or category not in index:
            raise DatasetError(
                f"{source}: annotation {entry.get('id')} has the category {str(category)[:40]}, which is not among the "
                "file's categories; add it there or correct the annotation"
            )
        record = images.get(entry["image_id"]) if type(entry.get("image_id")) is int else None
        if record is None:
            problems.append(
                Problem(source.name, _number(entry), f"left out: no image has the id {entry.get('image_id')}", True)
            )
            continue
        instance, said = _instance(entry, record, index[int(category)])
        problems.extend(Problem(record["file_name"], _number(entry), text, instance is None) for text in said)
        if instance:
            record["instances"].append(instance)

    paths = _locate([image["file_name"] for image in images.values()], source, split)
    records = tuple(
        Record(number, path, image["file_name"], image["height"], image["width"], tuple(image["instances"]))
        for (number, image), path in zip(images.items(), paths, strict=True)
    )
    return Split(categories, records, tuple(problems), source)


def raise_if_left_out(split: Split) -> None:
    """Say at the end of a job what it did without.

    Raises:
        DatasetError: whole annotations were left out; it names the first few.
    """
    left_out = [problem for problem in split.problems if problem.left_out]
    if left_out:
        first = "; ".join(str(problem) for problem in left_out[:3])
        raise DatasetError(
            f"{split.source}: done without {len(left_out)} annotation(s) that cannot be used ({first}); "
            "correct or remove them"
        )


def full_mask(instance: Instance, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The instance's pixels in its whole image."""
    return draw_pixels(instance.segmentation, height, width).astype(bool)


def box_mask(instance: Instance, height: int, width: int, size: int) -> UInt8[np.ndarray, "m m"]:
    """The instance's mask relative to its box, 0 or 1: cell (i, j) of [size, size] covers that share of the box.

    Draws only the box's part of the image, so it is quick whatever the image's size. `maskrcnn_jax.roi.masks.paste`
    brings it back; how well is measured in tests/crystal/test_dataset.py.
    """
    return draw_cells(instance.segmentation, instance.box, height, width, size)
