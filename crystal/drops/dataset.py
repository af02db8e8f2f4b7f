"""`crystal render`: drops as a dataset, JPEG files with a LabelMe file beside each, and one COCO file a split."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np

from crystal.console import console, one_bar
from crystal.data.coco_file import coco_annotation, coco_document
from crystal.data.labelme.export import instance_shapes
from crystal.data.outlines import cut, encode_patch, polygons
from crystal.data.pool import in_processes
from crystal.drops.drop import DrawnCrystal, Drop, draw_drop
from crystal.drops.options import Render
from crystal.drops.world.dense import draw_dense
from crystal.drops.world.scene import Scene, SceneObject, draw_scene
from crystal.files import explained_writing, folder_written_whole

JPEG_QUALITY = 88
SPLITS = ("train", "val")
CATEGORIES = {"simple": ["crystal"], "dense": ["crystal"], "world": ["crystal", "drop"]}
INFO = {"description": "Crystallization drops drawn from a seed", "version": "1.0"}


def _annotate(instance: DrawnCrystal | SceneObject, height: int, width: int) -> tuple[dict, list[list[float]]]:
    """An object's COCO annotation, without ids, and its outlines for LabelMe; none where they do not reproduce it."""
    outlines, exact = polygons(instance.mask)
    outlines = outlines if exact else []  # a hole needs run lengths
    mask = instance.mask
    rle = encode_patch(*cut(mask), height=height, width=width) if isinstance(mask, np.ndarray) else mask
    return coco_annotation(rle, instance.category, polygons=outlines, crowd=instance.ignored), outlines


def _labelme(name: str, drop: Drop | Scene, outlines: list[list[list[float]]]) -> dict:
    """A LabelMe 5 document; the parts of one object share a group_id, and a later shape lies over an earlier one."""
    shapes = []
    for number, (instance, parts) in enumerate(zip(drop.instances, outlines, strict=True), start=1):
        shapes += instance_shapes(
            instance.mask,
            parts,
            label=instance.category,
            number=number,
            description=instance.kind,
            crowd=instance.ignored,
        )
    height, width = drop.image.shape[:2]
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    return document | {"imageHeight": height, "imageWidth": width}


def _render_one(task: tuple) -> tuple[dict, list[dict]]:
    """Draw one image into its folder with its LabelMe file; returns its COCO record and annotations, without ids."""
    folder, split, index, seed, light, height, width, scenes = task
    name = f"drop_{split}_{index + 1:05d}"
    where = (seed, SPLITS.index(split), index)
    if scenes in ("world", "dense"):
        draw = draw_scene if scenes == "world" else draw_dense
        drop = draw(where, height=height, width=width, light=light)
    else:
        crystals = 0 if scenes == "plain" and index % 3 == 0 else None
        drop = draw_drop(where, height=height or 800, width=width or 1000, light=light, crystals=crystals)
        if scenes == "plain":
            drop = drop._replace(instances=(DrawnCrystal(drop.liquid, "drop", False, "drop"), *drop.instances))
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(drop.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    height, width = drop.image.shape[:2]
    annotated = [_annotate(instance, height, width) for instance in drop.instances]
    document = _labelme(f"{name}.jpg", drop, [outline for _, outline in annotated])
    with explained_writing(folder / f"{name}.jpg"):
        (folder / f"{name}.jpg").write_bytes(jpeg.tobytes())
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return {"file_name": f"{name}.jpg", "height": height, "width": width}, [annotation for annotation, _ in annotated]


def render_dataset(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    light: float = 0.5,
    scenes: Literal["world", "dense", "simple"] = "world",
    height: int | None = None,
    width: int | None = None,
    more: Mapping[Literal["plain", "dense"], int] = MappingProxyType({}),
    workers: int = 2,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Draw a dataset into the new folder `out`: all of it, or nothing.

    `out/{train,val}/images/` holds JPEG images with a LabelMe file beside each, `out/{train,val}.json` the same
    objects in COCO's format (one to be ignored has iscrowd 1). Equal arguments give equal bytes, whatever the
    number of workers.

    Args:
        out: a folder that does not exist yet, or is empty.
        train: number of training drops, 0 or more.
        val: number of validation drops, 0 or more; drawn from other seeds than the training drops.
        seed: 0 or more.
        light: 0 = even, contrasty, to 1 = dim, uneven, faint.
        scenes: "world" is drawn after real photographs and has crystals and drops as its objects (`draw_scene`);
            the others have crystals alone: "dense" is a dish full of them (`draw_dense`), "simple" one clear drop
            (`draw_drop`).
        height: of the images, in pixels; None for what the world's cameras have, and for 800 of simple drops.
        width: of the images, in pixels; None for what the world's cameras have, and for 1000 of simple drops.
        more: how many of other kinds follow the world's scenes in training: "plain" are simple scenes with the drop as
            an object, every third without crystals.
        workers: processes that draw; 1 draws in this one.
        progress: called as progress(done, total) after each image.

    Raises:
        OutputError: `out` is a file or a folder with something in it, or a file cannot be written.
        ValueError: a number is out of range.
    """
    if train < 0 or val < 0:
        raise ValueError(f"train is {train} and val is {val}; neither can be negative")
    if min(more.values(), default=0) < 0 or (more and scenes != "world"):
        raise ValueError(f"more is {dict(more)}; give 0 or more, and none but after scenes of the world")
    others = [kind for kind, number in more.items() for _ in range(number)]
    with folder_written_whole(out) as partial:
        tasks = []
        for split, number in zip(SPLITS, (train, val), strict=True):
            folder = partial / split / "images"
            folder.mkdir(parents=True)
            kinds = [scenes] * number + (others if split == "train" else [])
            tasks += [(folder, split, index, seed, light, height, width, kind) for index, kind in enumerate(kinds)]
        results = []
        # Closed at once, so that no worker outlives a Ctrl-C.
        with contextlib.closing(in_processes(_render_one, tasks, workers)) as drawn:
            for result in drawn:
                results.append(result)
                progress(len(results), len(tasks))
        for split, part in zip(SPLITS, (results[: len(results) - val], results[len(results) - val :]), strict=True):
            info = {**INFO, "seed": seed, "light": light}
            info |= {} if scenes == "simple" else {"scenes": scenes}
            document = coco_document(part, CATEGORIES[scenes], **info)
            (partial / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


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
            scenes=options.scenes,
            progress=lambda done, total: bar(done),
        )
    console.print(f"{options.out}: {train} + {val} images")
    return 0
