"""How good a model is on a split: the paper's numbers and COCO's (Crystals 2021, section 3 and Table 1)."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from rich.table import Table

from crystal.console import console, one_bar, warn
from crystal.data.classes import with_classes_of
from crystal.data.dataset import Record, Split, fits_pixels, left_out, load_split
from crystal.data.images import PNG_SIGNATURE, stated_size
from crystal.data.preparation import read_record_image
from crystal.data.segmentation import to_rle
from crystal.evaluation.metrics import Instances, coco_metrics, empty_image_report, paper_map, precision_recall
from crystal.evaluation.options import Evaluate
from crystal.files import explained_writing, refuse_replacing, write_atomically
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predictor import Prediction, Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import listed, parse_zoom

# Table 1: mAP at IoU 0.50 on 10 images and at 0.65 on 100, all with at least one crystal.
FEW, MANY = 10, 100
COCO_LIMIT = 100  # detections an image, best first, that COCO's figures count
SCORE = 0.5  # precision and recall count detections of this score or higher


class Assessment(NamedTuple):
    """The figures of a model on a split.

    Attributes:
        numbers: by name, see `assess`.
        drawn: indices of the 10 and of the 100 images of the paper's table.
        records: every image of the split, in order.
        truths: ground truth of each.
        predictions: prediction for each.
    """

    numbers: dict[str, float]
    drawn: dict[str, list[int]]
    records: tuple[Record, ...]
    truths: list[Instances]
    predictions: list[Instances]


def truth_of(record: Record) -> Instances:
    """The record's instances as `crystal.evaluation.metrics` takes them, masks as RLE."""
    return {
        "masks": [to_rle(i.segmentation, record.height, record.width) for i in record.instances],
        "classes": np.array([i.category for i in record.instances], int),
        "crowd": np.array([i.crowd for i in record.instances], bool),
    }


def coco_truth(split: Split, truths: Sequence[Instances]) -> dict[str, Any]:
    """The split as a COCO document, made from the outlines that were read and checked.

    Not the file itself: pycocotools' C code ends the whole process on outlines that dataset.py leaves out or clips.
    """
    annotations = [
        {
            "image_id": record.image_id,
            "category_id": split.categories[instance.category][0],
            "segmentation": mask,
            "area": instance.area if fits_pixels(instance, pixels) else pixels,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(instance.crowd),
        }
        for record, truth in zip(split.records, truths, strict=True)
        for instance, mask in zip(record.instances, truth["masks"], strict=True)
        for (x1, y1, x2, y2), pixels in [(instance.box, int(coco_mask.area(mask)))]
    ]
    return {
        "images": [{"id": r.image_id, "height": r.height, "width": r.width} for r in split.records],
        "categories": [{"id": number, "name": name} for number, name in split.categories[1:]],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
    }


def prediction_of(prediction: Prediction, unlisted: Collection[int] = ()) -> Instances:
    """A prediction as `crystal.evaluation.metrics` takes it, without classes that the ground truth does not list."""
    judged = np.flatnonzero(~np.isin(prediction.classes, list(unlisted)))
    masks = [prediction.rles[i] for i in judged]
    return {"masks": masks, "classes": prediction.classes[judged], "scores": prediction.scores[judged]}


def require_sizes(records: Sequence[Record]) -> None:
    """Check, before any long work, that images can be read and have the sizes that the annotations state.

    Raises DatasetError or ImageError. Decoded are only those that their bytes do not show to be whole and of that size.
    """
    for record in records:
        with record.path.open("rb") as file:
            data = file.read()
        whole = data.startswith(PNG_SIGNATURE) or (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9"))
        rotated = b"Exif" in data[:4096]  # a header states the size before EXIF's rotation
        if not whole or rotated or stated_size(data, record.path) != (record.height, record.width):
            read_record_image(record)


def draw_images(truths: Sequence[Instances], count: int, seed: int) -> list[int]:
    """Indices of `count` images that have at least one object, drawn by seed; all of them where there are fewer."""
    eligible = [i for i, truth in enumerate(truths) if np.sum(~np.asarray(truth["crowd"]))]
    order = np.random.default_rng(seed).permutation(len(eligible))
    return sorted(eligible[i] for i in order[:count])


def map_on(truths: list[Instances], predictions: list[Instances], images: list[int], *, iou: float) -> float:
    """The paper's mAP on some of the images."""
    return paper_map([truths[i] for i in images], [predictions[i] for i in images], iou=iou)


def map_at_50(
    predictor: Predictor, records: Sequence[Record], truths: list[Instances], unlisted: Collection[int] = ()
) -> float:
    """The mAP at IoU 0.50 on a few images, for validation during training."""
    found = [prediction_of(p, unlisted) for p in predictor(read_record_image(r) for r in records)]
    return paper_map(truths, found, iou=0.5)


def assess(
    predictor: Predictor, split: Split, *, seed: int = 0, progress: Callable[[int, str], None] = lambda done, note: None
) -> Assessment:
    """Predict every image of the split and measure.

    Names: `map_050_10`, `map_065_100`, `map_050_100` (on 10 and 100 images with objects, drawn by `seed`; all where
    there are fewer), `map_050_all`, `precision` and `recall` at IoU 0.50 from score 0.5 on, `empty_images` and
    `empty_false_positives`, and COCO's as `coco_segm_ap`, `coco_segm_ap50`, ..., `coco_bbox_ap`, ...

    The split's categories are the network's classes, in their order (`crystal.data.classes.with_classes_of`); those
    that its file does not list are not judged.
    """
    truths = [truth_of(record) for record in split.records]
    found: list[Prediction] = []
    for prediction in predictor(read_record_image(record) for record in split.records):
        found.append(prediction)
        progress(len(found), "")
    predictions = [prediction_of(p, split.unlisted) for p in found]

    few, many = draw_images(truths, FEW, seed), draw_images(truths, MANY, seed)
    confident = [_from_score(p, SCORE) for p in predictions]
    counted = precision_recall(truths, confident, iou=0.5)
    empty = empty_image_report(truths, confident, iou=0.5)
    numbers = {
        "map_050_10": map_on(truths, predictions, few, iou=0.5),
        "map_065_100": map_on(truths, predictions, many, iou=0.65),
        "map_050_100": map_on(truths, predictions, many, iou=0.5),
        "map_050_all": paper_map(truths, predictions, iou=0.5),
        "images_of_10": len(few),
        "images_of_100": len(many),
        "precision": counted.precision,
        "recall": counted.recall,
        "empty_images": empty.images,
        "empty_false_positives": empty.false_positives,
    }
    truth_json = coco_truth(split, truths)
    for kind in ("segm", "bbox"):
        results = [r for record, p in zip(split.records, found, strict=True) for r in _results(record, p, split, kind)]
        for name, value in coco_metrics(truth_json, results, kind=kind).items():
            numbers[f"coco_{kind}_{name.lower()}"] = value
    return Assessment(numbers, {str(FEW): few, str(MANY): many}, tuple(split.records), truths, predictions)


def _from_score(prediction: Instances, score: float) -> Instances:
    keep = np.flatnonzero(np.asarray(prediction["scores"]) >= score)
    masks = prediction["masks"]
    return {
        "masks": [masks[i] for i in keep],
        "classes": np.asarray(prediction["classes"])[keep],
        "scores": np.asarray(prediction["scores"])[keep],
    }


def _results(record: Record, prediction: Prediction, split: Split, kind: str) -> list[dict[str, Any]]:
    """COCO results of one image. Masks go without boxes, so that COCO sorts sizes by mask area."""
    rows = []
    for i, rle in enumerate(prediction.rles):
        if prediction.classes[i] in split.unlisted:
            continue
        category = split.categories[prediction.classes[i]][0]
        row = {"image_id": record.image_id, "category_id": category, "score": float(prediction.scores[i])}
        x1, y1, x2, y2 = (float(v) for v in prediction.boxes[i])
        place = {"segmentation": rle} if kind == "segm" else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        rows.append({**row, **place})
    return rows


def evaluate_command(options: Evaluate) -> int:
    """`crystal evaluate`: measure, print a table, write JSON where asked."""
    if options.out is not None:
        refuse_replacing(options.out, '"map_050_all"', "the numbers of an earlier evaluation")
        with explained_writing(options.out):  # rather now than after minutes
            options.out.parent.mkdir(parents=True, exist_ok=True)
    use_compilation_cache()
    weights = options.weights or CRYSTAL
    model = load_run(weights)
    predictor = Predictor(model, zoom=parse_zoom(options.zoom))
    split = load_split(options.data, options.split, crowds_as_objects=options.crowds_as_objects)
    held_out, notes = with_classes_of(split, model.config.classes)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    require_sizes(held_out.records)
    with one_bar("evaluating", len(held_out.records)) as bar:
        assessment = assess(predictor, held_out, seed=options.seed, progress=bar)
    zooms = sorted({view.zoom for r in held_out.records for view in predictor.views(r.height, r.width)})
    title = f"{weights} on {held_out.source}, looked at zooms {listed(zooms)}"
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in assessment.numbers.items():
        table.add_row(name, f"{value:g}" if name.startswith(("images", "empty")) else f"{value:.3f}")
    console.print(table)
    if many := sum(len(p["scores"]) > COCO_LIMIT for p in assessment.predictions):
        console.print(
            f"note: COCO's figures count the {COCO_LIMIT} best detections of an image; {many} image(s) have more"
        )
    if options.out is not None:
        write_atomically(options.out, json.dumps(without_nan(assessment.numbers), indent=1))
    warn(left_out(held_out, measured=True))
    return 0


def without_nan(numbers: dict[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN: undefined ones become null; counts stay integers."""
    return {
        name: None if np.isnan(value) else value if isinstance(value, int) else float(value)
        for name, value in numbers.items()
    }
