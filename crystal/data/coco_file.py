"""Where a dataset's COCO files and images lie, a COCO file's outermost layer, and how such files are written.

`DATASET/{split}.json` with `DATASET/{split}/images/`, as `crystal render` and `crystal convert` write it; COCO's own
`annotations/instances_{split}2017.json` with `{split}2017/`; CVAT's `annotations/instances_{subset}.json` with
`images/{subset}/`; Roboflow's `{split}/_annotations.coco.json` with the images beside it; or most mixtures of these.
Nothing outside the dataset's folder is read, whatever names a file holds. Runs in input workers: no JAX.
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pycocotools import mask as rle_tools

from crystal.console import printable
from crystal.data.json_text import JsonError, parse_json
from crystal.errors import CrystalError
from crystal.files import spellings

PATTERNS = ("{}.json", "annotations/{}.json", "annotations/instances_{}*.json", "{}/_annotations.coco.json")
IN_FOLDERS = ("_annotations.coco.json", "annotations.json", "instances.json", "coco.json", "labels.json")  # of a split
USUAL = {"train", "val", "test"}
SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
NOT_OF_A_NAME = {"instances", "annotations", "annotation", "coco"}
LISTS = ("images", "annotations", "categories")


class DatasetError(CrystalError, ValueError):
    """A dataset that cannot be used; the message names the file and the remedy."""


def _exists(dataset: Path) -> None:
    if not dataset.exists():
        raise DatasetError(f"{dataset}: there is no such dataset; render one with `crystal render` or check the path")


def split_name(name: str) -> str:
    """The usual name of a split, from that of a file or folder; "" where it names none.

    >>> [split_name(name) for name in ("instances_val2017", "Validation", "train_annotations", "_annotations.coco")]
    ['val', 'val', 'train', '']
    """
    words = [re.sub(r"(19|20)\d\d$", "", word) for word in re.split(r"[\W_]+", name.lower())]
    plain = "_".join(word for word in words if word and word not in NOT_OF_A_NAME)
    return SYNONYMS.get(plain, plain)


def _named(dataset: Path) -> dict[str, Path]:
    """The JSON files that may be splits, by `split_name`; where two have the same, the later by its full name."""
    found: list[tuple[str, Path]] = []
    for folder in (dataset, dataset / "annotations"):
        own = sorted(folder.glob("instances_*.json"))
        found += [(path.stem, path) for path in own or sorted(folder.glob("*.json")) if not path.name.startswith(".")]
    folders = sorted(folder for folder in dataset.iterdir() if split_name(folder.name) in USUAL and folder.is_dir())
    found += [(folder.name, folder / name) for folder in folders for name in IN_FOLDERS]
    named: dict[str, Path] = {}
    for name, path in found:
        if path.is_file():
            usual, full = split_name(name) or name, name.removeprefix("instances_")
            named.setdefault(full if usual in named else usual, path)
    return named


def find_json(dataset: Path, split: str) -> Path:
    """The COCO file of one split, as `find_splits` finds it; `dataset` itself where it is a file.

    Raises:
        DatasetError: there is no such dataset or split.
    """
    _exists(dataset)
    if dataset.is_file():
        return dataset
    named = _named(dataset)
    found = named.get(split) or named.get(split_name(split))
    if not found and split_name(split) == "train":  # by whatever name; only now, since this reads the files
        found = _splits(dataset).get("train")
    if not found:
        known = f" (there are {', '.join(map(printable, list(named)[:10]))})" if named else ""
        looked = ", ".join(pattern.format(split) for pattern in PATTERNS)
        raise DatasetError(
            f"{dataset}: no annotations for the split {split!r}{known}; {_labelme_hint(dataset)}put a COCO file there "
            f"(looked for {looked})"
        )
    return found


def has_split(dataset: Path, split: str) -> bool:
    """Whether a dataset's folder has that split; false where the dataset is a single file."""
    try:
        return dataset.is_dir() and bool(find_json(dataset, split))
    except DatasetError:
        return False


def _splits(dataset: Path) -> dict[str, Path]:
    named = {name: path for name, path in _named(dataset).items() if not _is_something_else(path)}
    alone = next(iter(named)) if len(named) == 1 and not USUAL & set(named) else "default"  # CVAT's, of no subset
    if "train" not in named and alone in named:
        named["train"] = named.pop(alone)
    return dict(sorted(named.items(), key=lambda item: (not item[0].startswith("train"), item[0])))


def find_splits(dataset: Path) -> dict[str, Path]:
    """Every split's COCO file by the split's name, "train" first; a single file is one split.

    Names are the usual ones where files or folders bear them in some form: `valid` and `instances_val2017` are "val". A
    file that is alone and has another name is "train", and so is CVAT's `instances_default.json`. Where COCO's own
    names occur, other JSON files of their folder (captions, key points) are skipped, as are JSON files without any of
    COCO's lists.

    Raises:
        DatasetError: there is no such dataset, or no COCO file in it.
    """
    _exists(dataset)
    if dataset.is_file():
        return {split_name(dataset.stem) or dataset.stem: dataset}
    splits = _splits(dataset)
    if not splits:
        raise DatasetError(
            f"{dataset}: holds no COCO file; {_labelme_hint(dataset)}expected train.json, val.json, "
            "annotations/instances_*.json or train/_annotations.coco.json"
        )
    return splits


def _labelme_hint(dataset: Path) -> str:
    """What to do with a folder of LabelMe files; "" where the first JSON files are something else."""
    for path in itertools.islice(dataset.rglob("*.json"), 5):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if "shapes" in json.loads(path.read_bytes()):
                return f"it holds LabelMe files: make a dataset of them with `crystal convert {dataset} --out NEW`, or "
    return ""


def _is_something_else(path: Path) -> bool:
    """Whether this is sound JSON without any of COCO's lists. A damaged file may be a damaged split."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(document, dict) or not any(key in document for key in LISTS)


def load_json(path: Path) -> dict[str, Any]:
    """A COCO file whose `images`, `annotations` and `categories` are lists of objects; nothing else is checked.

    Raises:
        DatasetError: it cannot be read or is something else.
    """
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except JsonError as error:
        raise DatasetError(f"{path}: {error}") from error
    if isinstance(document, dict) and "shapes" in document:
        raise DatasetError(
            f"{path}: is a LabelMe file; make a dataset of such files with `crystal convert {path.parent} --out NEW`"
        )
    for key in LISTS:
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{path}: has no list of {key}; it must be a COCO instances file")
    return document


def coco_annotation(
    rle: Mapping[str, Any], category: int | str, *, polygons: Sequence[Sequence[float]] = (), crowd: bool = False
) -> dict[str, Any]:
    """One of COCO's annotations, without ids; `area` and `bbox` are those of the pixels.

    Args:
        rle: the mask in compressed run lengths (`counts` bytes), not empty.
        category: its id; in `coco_document` its name.
        polygons: outlines that say what the mask says, written in its place.
        crowd: whether it is a region to ignore; COCO wants run lengths then.
    """
    packed: Any = rle  # pycocotools' own annotations know only one of the forms it takes
    run_lengths = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    return {
        "category_id": category,
        "segmentation": list(polygons) if polygons and not crowd else run_lengths,
        "area": int(rle_tools.area(packed)),
        "bbox": rle_tools.toBbox(packed).astype(int).tolist(),
        "iscrowd": int(crowd),
    }


def coco_document(
    images: Iterable[tuple[dict[str, Any], Iterable[dict[str, Any]]]], names: Sequence[str], **info: Any
) -> dict[str, Any]:
    """A COCO document of images and their annotations, all numbered from 1.

    Args:
        images: each without an id, and its annotations from `coco_annotation`, their categories by name.
        names: of the categories. A crowd of another one is given the first.
        info: the document's `info`.
    """
    ids = {name: number for number, name in enumerate(names, 1)}
    document: dict[str, Any] = {
        "info": info,
        "licenses": [],
        "images": [],
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()],
        "annotations": [],
    }
    for number, (image, own) in enumerate(images, 1):
        document["images"].append({"id": number, **image})
        for annotation in own if names else ():
            numbers = {"id": len(document["annotations"]) + 1, "image_id": number}
            category = {"category_id": ids.get(annotation["category_id"], 1)}
            document["annotations"].append(numbers | annotation | category)
    return document


class Images:
    """Finds a split's images by the names in its COCO file."""

    def __init__(self, source: Path, split: str):
        self.root = source.parent.parent if source.parent.name == "annotations" else source.parent
        stem = source.stem.removeprefix("instances_")
        names = (
            f"{stem}/images",
            stem,
            f"{split}/images",
            split,
            f"images/{stem}",
            f"images/{split}",
            "images",
            "data",
            "",
        )
        self.folders = list(dict.fromkeys(self.root / name for name in names))

    def _inside(self, paths: Iterable[Path]) -> list[Path]:
        # By name, links not followed: a folder of images may be a link to another disk.
        root = os.path.abspath(self.root)
        return [path for path in paths if Path(os.path.abspath(path)).is_relative_to(root)]

    def find(self, name: str) -> Path:
        """The image of that name; the folder of the previous one is tried first.

        Raises:
            DatasetError: it does not exist, or lies outside the dataset. The message does not name it.
        """
        relative = name.replace("\\", "/")
        absolute = PurePosixPath(relative).is_absolute() or bool(PureWindowsPath(name).drive)
        names = spellings(relative)
        paths = self._inside(folder / own for folder in self.folders for own in names) if name and not absolute else []
        if not paths:
            raise DatasetError("names no file inside the dataset's folder; copy the image there and name it from there")
        for path in paths:
            try:
                if not path.is_file():
                    continue
            except (OSError, ValueError):  # too long, or not a name at all
                continue
            used = next((folder for folder in self.folders for own in names if folder / own == path), self.folders[0])
            self.folders.sort(key=lambda folder: folder != used)
            return path
        looked = ", ".join(str(folder) for folder in self.folders[:3])
        raise DatasetError(
            f"there is no such image (looked in {looked}, ...); copy it there or take it out of the annotations"
        )
