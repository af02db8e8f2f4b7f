"""`report.html` of the demo: one self-contained page with the paper's table, curves, pictures and failures.

What an outline's colour means stands above the pictures, and the numbers stand below each.
"""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from crystal.data.images import apply_clahe, read_image
from crystal.evaluation.metrics import average_precision
from crystal.evaluation.outcomes import KEY, MATCH_IOU, ImageResult, draw_truth, judge
from crystal.evaluation.table1 import MEASURES
from crystal.pages.charts import curve, line_chart, smooth
from crystal.pages.page import colour_keys, figure, table, write_page
from crystal.prediction.overlays import over_histogram

# Qin et al., Crystals 2021, 11, 157, table 1: (row, our key, without CLAHE, with CLAHE).
PAPER = tuple((f"{m.drawn} images, IoU {m.iou}", key, *m.paper) for key, m in MEASURES.items() if m.paper)
FURTHER = (
    ("mAP as in the paper, 100 images, IoU 0.50", "map_050_100"),
    ("COCO AP of masks, IoU 0.50 to 0.95", "coco_segm_ap"),
    ("COCO AP of masks, IoU 0.50", "coco_segm_ap50"),
    ("COCO AP of boxes, IoU 0.50 to 0.95", "coco_bbox_ap"),
    ("drops without crystals, left out of the mAP", "empty_images"),
    ("false crystals in them", "empty_false_positives"),
    ("training steps", "steps"),
    ("seconds of training", "seconds"),
)
LOSSES = (
    ("total loss", "loss"),
    ("RPN: object or not", "loss_rpn_class"),
    ("RPN: boxes", "loss_rpn_box"),
    ("heads: class", "loss_roi_class"),
    ("heads: boxes", "loss_roi_box"),
    ("heads: masks", "loss_roi_mask"),
)
TITLE = "Outlining protein crystals with Mask R-CNN"
RUNS = (("plain", "without CLAHE"), ("clahe", "with CLAHE"))
PICTURE_WIDTH = 680  # pixels: sharp where three stand side by side, and where one fills a telephone's screen


class RunView(NamedTuple):
    """One training run.

    Attributes:
        metrics: the lines of metrics.jsonl: `step` with `loss`, `loss_rpn_class`, ... or with `val_map`.
        images: evaluated images, the same in the same order for both runs.
    """

    metrics: Sequence[Mapping[str, float]]
    images: Sequence[ImageResult]


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) and abs(value) <= 1 else f"{value:,.0f}"


def _key(score_threshold: float) -> str:
    return (
        f"<p>{colour_keys(KEY)}</p><p>Drawn and counted: predictions of score {score_threshold:g} and more; found "
        f"means a mask IoU of {MATCH_IOU:g} or more. AP is one image's average precision at that IoU, over all "
        "scores.</p>"
    )


def _scale(image: np.ndarray) -> float:
    return PICTURE_WIDTH / image.shape[1]


def _headline(results: Mapping[str, Mapping[str, Any]]) -> str:
    plain, clahe = (_number(results.get(run, {}).get("map_050_100")) for run, _ in RUNS)
    return (
        f"Trained and tested on rendered drops, Mask R-CNN reaches a mAP of {plain} at IoU 0.50 without CLAHE and "
        f"{clahe} with it, on drops that it never saw."
    )


def _numbers(results: Mapping[str, Mapping[str, Any]]) -> str:
    def ours(key: str) -> list[str]:
        return [_number(results.get(run, {}).get(key)) for run, _ in RUNS]

    names = [name for _, name in RUNS]
    paper = [(row, *ours(key), _number(plain), _number(clahe)) for row, key, plain, clahe in PAPER]
    further = [(row, *ours(key)) for row, key in FURTHER if any(key in values for values in results.values())]
    return (
        "<h2>The paper's table</h2>"
        + table(["mAP", *names, *(f"paper, {name}" for name in names)], paper, paper_columns=2)
        + "<p>The paper's figures (Qin et al., Crystals 2021, 11, 157) are for MARCO photographs, ours for rendered "
        "drops: they are not comparable one to one. Read across each pair for what CLAHE changes.</p>"
        "<h2>Further numbers</h2>" + table(["", *names], further)
    )


def _curves(runs: Mapping[str, RunView]) -> str:
    def chart(title: str, key: str, **options: Any) -> str:
        curves = {name: smooth(*curve(runs[run].metrics, key)) for run, name in RUNS if run in runs}
        curves = {name: line for name, line in curves.items() if len(line[0])}
        return f"<figure>{line_chart(title, curves, **options)}</figure>" if curves else ""

    losses = "".join(chart(title, key) for title, key in LOSSES)
    validation = chart("validation mAP at IoU 0.50", "val_map", top=1.0, markers=True)
    return f"<h2>Training</h2><div class=grid>{validation}{losses}</div>" if losses or validation else ""


def _clahe(path: Path) -> str:
    image = read_image(path)
    size = PICTURE_WIDTH, round(image.shape[0] * _scale(image))
    panels = ((image, "as it is", "before"), (apply_clahe(image), "after CLAHE", "after"))
    figures = "".join(
        figure(over_histogram(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)), caption, f"{path.name} {when}")
        for picture, caption, when in panels
    )
    return (
        "<h2>CLAHE before and after</h2><p>Below each picture: how often each brightness occurs, dark on the left."
        f"</p><div class=grid>{figures}</div>"
    )


def _samples(runs: Mapping[str, RunView], count: int, score_threshold: float) -> str:
    views = [(name, runs[run].images) for run, name in RUNS if run in runs]
    blocks = []
    for together in list(zip(*(images for _, images in views), strict=True))[:count]:
        image = read_image(together[0].path)
        scale, truth, name = _scale(image), together[0].truth, together[0].path.name
        figures = [figure(draw_truth(image, truth, scale=scale), "ground truth", f"{name}: ground truth")]
        for (title, _), result in zip(views, together, strict=True):
            verdict = judge(image, result, score_threshold=score_threshold, scale=scale)
            figures.append(figure(verdict.picture, f"{title}: {verdict}", f"{name}: prediction {title}"))
        blocks.append(f"<h3>{html.escape(name)}</h3><div class=grid>{''.join(figures)}</div>")
    return f"<h2>Ground truth beside prediction</h2>{_key(score_threshold)}{''.join(blocks)}" if blocks else ""


def _failures(runs: Mapping[str, RunView], count: int, score_threshold: float) -> str:
    scored = [
        (ap, index, name, result)
        for run, name in RUNS
        if run in runs
        for index, result in enumerate(runs[run].images)
        if not math.isnan(ap := average_precision(result.truth, result.prediction, iou=MATCH_IOU)) and ap < 1
    ]
    blocks = []
    for _, _, name, result in sorted(scored, key=lambda entry: entry[:2])[:count]:
        image = read_image(result.path)
        scale = _scale(image)
        verdict = judge(image, result, score_threshold=score_threshold, scale=scale)
        alt = f"{result.path.name}: "
        figures = figure(draw_truth(image, result.truth, scale=scale), "ground truth", alt + "ground truth")
        figures += figure(verdict.picture, f"{name}: {verdict.explain()}", f"{alt}prediction {name}")
        blocks.append(f"<h3>{html.escape(result.path.name)}</h3><div class=grid>{figures}</div>")
    return f"<h2>Failures, worst first</h2>{_key(score_threshold)}{''.join(blocks)}" if blocks else ""


def write_report(
    demo_dir: Path,
    *,
    results: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, RunView],
    samples: int = 6,
    failures: int = 8,
    score_threshold: float = 0.5,
) -> Path:
    """Write `report.html` into a folder, replacing an earlier one when it is complete.

    Args:
        demo_dir: the folder, which exists.
        results: what metrics.json holds: for "plain" and "clahe" the keys `map_050_10`, `map_065_100`, `map_050_100`,
            `coco_segm_ap`, `coco_segm_ap50`, `coco_bbox_ap`, `empty_images`, `empty_false_positives`, `steps`,
            `seconds`. What one run lacks shows as a dash; what both lack is left out.
        runs: the two runs, "plain" and "clahe".
        samples: how many images to show with both predictions: the first ones.
        failures: how many (image, run) pairs to show, lowest AP at IoU 0.50 first.
        score_threshold: the least score of a prediction that is drawn and counted; AP counts all.

    Returns:
        The page's path.

    Raises:
        ImageError: an image is gone.
        OutputError: the page cannot be written.
    """
    first = next((view.images[0].path for view in runs.values() if view.images), None)
    body = [
        f"<h1>{TITLE}</h1><p>{html.escape(_headline(results))}</p>",
        _numbers(results),
        _curves(runs),
        _clahe(first) if first else "",
        _samples(runs, samples, score_threshold),
        _failures(runs, failures, score_threshold),
    ]
    path = demo_dir / "report.html"
    write_page(path, TITLE, "".join(body))
    return path
