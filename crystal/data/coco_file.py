"""Where a dataset's COCO files and images lie, a COCO file's outermost layer, and how such files are written.

`DATASET/{split}.json` with `DATASET/{split}/images/`, as `crystal render` and `crystal convert` write it, or COCO's own
`annotations/instances_{split}2017.json` with `{split}2017/`, or most mixtures of the two. Nothing outside the dataset's
folder is read, whatever names a file holds. Runs in input workers: no JAX.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pycocotools import mask as rle_tools

from crystal.errors import CrystalError

PATTERNS = ("{}.json", "annotations/{}.json", "instances_{}*.json", "annotations/instances_{}*.json")
LISTS = ("images", "annotations", "categories")


class DatasetError(CrystalError, ValueError):
    """A dataset that cannot be used; the message names the file and the remedy."""


def _exists(dataset: Path) -> None:
    if not dataset.exists():
        raise DatasetError(f"{dataset}: there is no such dataset; render one with `crystal render` or check the path")


def find_json(dataset: Path, split: str) -> Path:
    """The COCO file of one split; `dataset` itself where it is a file.

    Raises:
        DatasetError: there is no such dataset or split.
    """
    _exists(dataset)
    if dataset.is_file():
        return dataset
    for pattern in PATTERNS:
        found = sorted(dataset.glob(pattern.format(split)))
        if found:
            return found[0]
    looked = ", ".join(pattern.format(split) for pattern in PATTERNS)
    raise DatasetError(
        f"{dataset}: no annotations for the split {split!r}; put a COCO file there (looked for {looked})"
    )


def find_splits(dataset: Path) -> dict[str, Path]:
    """Every split's COCO file by the split's name, "train" first; a single file is one split.

    Where COCO's own names occur, other JSON files of their folder (captions, key points) are skipped, as are JSON files
    without any of COCO's lists.

    Raises:
        DatasetError: there is no such dataset, or no COCO file in it.
    """
    _exists(dataset)
    paths = [dataset]
    if dataset.is_dir():
        paths = []
        for folder in (dataset, dataset / "annotations"):
            own = sorted(folder.glob("instances_*.json"))
            paths += own or sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
        paths = [path for path in paths if path.is_file() and not _is_something_else(path)]
    if not paths:
        raise DatasetError(
            f"{dataset}: holds no COCO file; expected train.json, val.json or annotations/instances_*.json"
        )
    named = {path.stem.removeprefix("instances_"): path for path in reversed(paths)}  # the outer folder wins
    return dict(sorted(named.items(), key=lambda item: (not item[0].startswith("train"), item[0])))


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
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not valid JSON ({error}); write it again") from error
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
        names = (f"{stem}/images", stem, f"{split}/images", split, f"images/{stem}", f"images/{split}", "images", "")
        self.folders = list(dict.fromkeys(self.root / name for name in names))

    def _inside(self, paths: Iterable[Path]) -> list[Path]:
        # By name, links not followed: a folder of images may be a link to another disk.
        root = os.path.normpath(self.root)
        return [path for path in paths if Path(os.path.normpath(path)).is_relative_to(root)]

    def find(self, name: str) -> Path:
        """The image of that name; the folder of the previous one is tried first.

        Raises:
            DatasetError: it does not exist, or lies outside the dataset. The message does not name it.
        """
        relative = name.replace("\\", "/")
        absolute = PurePosixPath(relative).is_absolute() or bool(PureWindowsPath(name).drive)
        paths = [] if absolute or not name else self._inside(folder / relative for folder in self.folders)
        if not paths:
            raise DatasetError("names no file inside the dataset's folder; copy the image there and name it from there")
        for path in paths:
            try:
                if not path.is_file():
                    continue
            except (OSError, ValueError):  # too long, or not a name at all
                continue
            used = next((folder for folder in self.folders if folder / relative == path), self.folders[0])
            self.folders.sort(key=lambda folder: folder != used)
            return path
        looked = ", ".join(str(folder) for folder in self.folders[:3])
        raise DatasetError(
            f"there is no such image (looked in {looked}, ...); copy it there or take it out of the annotations"
        )
