"""`crystal render`: drops as a dataset, JPEG files with a LabelMe file beside each, and one COCO file a split."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from crystal.console import console, one_bar
from crystal.data.labelme.export import instance_shapes
from crystal.data.outlines import polygons
from crystal.data.pool import in_processes
from crystal.drops.drop import DrawnCrystal, Drop, draw_drop
from crystal.drops.options import Render
from crystal.files import explained_writing, folder_written_whole

JPEG_QUALITY = 88
SPLITS = ("train", "val")


def _annotate(instance: DrawnCrystal) -> tuple[dict, list[list[float]]]:
    """The instance's COCO annotation, without ids, and its outlines for LabelMe; none where they do not say it all."""
    rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    crop = instance.mask[top:bottom, left:right]
    outlines, exact = polygons(instance.mask)
    segmentation: list | dict = outlines
    if instance.ignored or not exact:  # COCO wants a crowd as RLE; a hole needs it
        packed: dict[str, Any] = dict(rle.encode(np.asfortranarray(instance.mask.astype(np.uint8))))
        segmentation = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    box = [left, top, right - left, bottom - top]
    annotation = {
        "category_id": 1,
        "segmentation": segmentation,
        "area": int(crop.sum()),
        "bbox": box,
        "iscrowd": int(instance.ignored),
    }
    return annotation, outlines if exact else []


def _labelme(name: str, drop: Drop, outlines: list[list[list[float]]]) -> dict:
    """A LabelMe 5 document; the parts of one crystal share a group_id, and a later shape lies over an earlier one."""
    shapes = []
    for number, (instance, parts) in enumerate(zip(drop.instances, outlines, strict=True), start=1):
        shapes += instance_shapes(
            instance.mask,
            parts,
            label="crystal",
            number=number,
            description=instance.kind,
            crowd=instance.ignored,
        )
    height, width = drop.image.shape[:2]
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    return document | {"imageHeight": height, "imageWidth": width}


def _render_one(task: tuple) -> tuple[dict, list[dict]]:
    """Draw one image into its folder with its LabelMe file; returns its COCO record and annotations, without ids."""
    folder, split, index, seed, light, height, width = task
    name = f"drop_{split}_{index + 1:05d}"
    drop = draw_drop((seed, SPLITS.index(split), index), height=height, width=width, light=light)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(drop.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    annotated = [_annotate(instance) for instance in drop.instances]
    document = _labelme(f"{name}.jpg", drop, [outline for _, outline in annotated])
    with explained_writing(folder / f"{name}.jpg"):
        (folder / f"{name}.jpg").write_bytes(jpeg.tobytes())
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return {"file_name": f"{name}.jpg", "height": height, "width": width}, [annotation for annotation, _ in annotated]


def _coco(results: list[tuple[dict, list[dict]]], seed: int, light: float) -> dict:
    """One split's COCO document, ids counted from 1."""
    images = [{"id": number, **image} for number, (image, _) in enumerate(results, start=1)]
    flat = [
        (number, annotation) for number, (_, annotations) in enumerate(results, start=1) for annotation in annotations
    ]
    return {
        "info": {
            "description": "Crystallization drops drawn from a seed",
            "version": "1.0",
            "seed": seed,
            "light": light,
        },
        "licenses": [],
        "images": images,
        "categories": [{"id": 1, "name": "crystal", "supercategory": "crystal"}],
        "annotations": [
            {"id": i, "image_id": number, **annotation} for i, (number, annotation) in enumerate(flat, start=1)
        ],
    }


def render_dataset(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    light: float = 0.5,
    height: int = 800,
    width: int = 1000,
    workers: int = 2,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Draw a dataset into the new folder `out`: all of it, or nothing.

    `out/{train,val}/images/` holds JPEG images with a LabelMe file beside each, `out/{train,val}.json` the same
    crystals in COCO's format (a crystal to be ignored has iscrowd 1). Equal arguments give equal bytes, whatever the
    number of workers.

    Args:
        out: a folder that does not exist yet, or is empty.
        train: number of training drops, 0 or more.
        val: number of validation drops, 0 or more; drawn from other seeds than the training drops.
        seed: 0 or more.
        light: 0 = even, contrasty, to 1 = dim, uneven, faint.
        height: of the images, in pixels.
        width: of the images, in pixels.
        workers: processes that draw; 1 draws in this one.
        progress: called as progress(done, total) after each image.

    Raises:
        OutputError: `out` is a file or a folder with something in it, or a file cannot be written.
        ValueError: a number is out of range.
    """
    if train < 0 or val < 0:
        raise ValueError(f"train is {train} and val is {val}; neither can be negative")
    with folder_written_whole(out) as partial:
        tasks = []
        for split, number in zip(SPLITS, (train, val), strict=True):
            folder = partial / split / "images"
            folder.mkdir(parents=True)
            tasks += [(folder, split, index, seed, light, height, width) for index in range(number)]
        results = []
        # Closed at once, so that no worker outlives a Ctrl-C.
        with contextlib.closing(in_processes(_render_one, tasks, workers)) as drawn:
            for result in drawn:
                results.append(result)
                progress(len(results), len(tasks))
        for split, part in zip(SPLITS, (results[:train], results[train:]), strict=True):
            (partial / f"{split}.json").write_text(json.dumps(_coco(part, seed, light)), encoding="utf-8")


def render_command(options: Render) -> int:
    """`crystal render`."""
    train, val = options.train, options.val
    with one_bar("rendering", train + val) as bar:
        render_dataset(
            options.out,
            train=train,
            val=val,
            seed=options.seed,
            light=options.light,
            progress=lambda done, total: bar(done),
        )
    console.print(f"{options.out}: {train} + {val} drops")
    return 0
