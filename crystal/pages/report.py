"""`report.html` of the demo: the paper's table, training curves, CLAHE, predictions beside ground truth, failures."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crystal.data.dataset import Record
from crystal.data.images import Image, apply_clahe, read_image
from crystal.evaluation.assessment import prediction_of, truth_of
from crystal.evaluation.outcomes import ImageResult, Verdict, draw_truth, judge
from crystal.evaluation.table1 import MEASURES
from crystal.pages.charts import curve, line_chart, smooth
from crystal.pages.page import write_page
from crystal.pages.pictures import WIDTH, enlarged
from crystal.prediction.overlays import over_histogram
from crystal.prediction.predictor import Prediction, Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import as_trained
from crystal.training.log import read_metrics

LOSSES = (
    ("total loss", "loss"),
    ("RPN: object or not", "loss_rpn_class"),
    ("RPN: boxes", "loss_rpn_box"),
    ("heads: class", "loss_roi_class"),
    ("heads: boxes", "loss_roi_box"),
    ("heads: masks", "loss_roi_mask"),
)
RUNS = {"plain": "without CLAHE", "clahe": "with CLAHE"}
SCORE = 0.5  # the least score of a prediction that is drawn and counted; AP counts all


class RunView(NamedTuple):
    """One training run.

    Attributes:
        numbers: by name: what was measured, `steps`, and `seconds` of training (None where it was interrupted).
        ap: each validation image's average precision at IoU 0.50; None where it has no object.
        metrics: the lines of metrics.jsonl: `step` with `loss`, `loss_rpn_class`, ... or with `val_map`.
        predict: the trained model: images to predictions, in order (a `Predictor`).
    """

    numbers: Mapping[str, float | None]
    ap: Sequence[float | None]
    metrics: Sequence[Mapping[str, float]]
    predict: Callable[[Iterable[Image]], Iterable[Prediction]]


def read_run(run: Path) -> RunView:
    """A run of `crystal table1` that was measured."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    numbers = evaluation["numbers"] | {key: evaluation[key] for key in ("steps", "seconds")}
    model = load_run(run)
    predictor = Predictor(model, zoom=as_trained(model.config.image.zooms))
    return RunView(numbers, evaluation["ap"]["0.50"], read_metrics(run), predictor)


def _charts(runs: Mapping[str, RunView]) -> Iterator[Any]:
    for title, key in (("validation mAP at IoU 0.50", "val_map"), *LOSSES):
        curves = {RUNS[run]: smooth(*curve(view.metrics, key)) for run, view in runs.items()}
        curves = {name: line for name, line in curves.items() if len(line[0])}
        is_map = key == "val_map"
        if curves:
            yield line_chart(title, curves, top=1.0 if is_map else None, markers=is_map)


def _show(record: Record, predictions: Mapping[str, Prediction]) -> tuple[str, Image, list[tuple[str, Verdict]]]:
    """Of one image: its name, its ground truth as a picture, and the outcome of each run that is shown."""
    image, truth = read_image(record.path), truth_of(record)
    scale = WIDTH / image.shape[1]
    verdicts = []
    for run, found in predictions.items():
        result = ImageResult(record.path, truth, prediction_of(found))
        verdicts.append((RUNS[run], judge(image, result, score_threshold=SCORE, scale=scale)))
    return record.path.name, draw_truth(image, truth, scale=scale), verdicts


def write_report(
    path: Path, runs: Mapping[str, RunView], records: Sequence[Record], *, samples: int = 6, failures: int = 8
) -> Path:
    """Write the page, replacing an earlier one when it is complete. Only the images shown are predicted again.

    Args:
        path: of the page.
        runs: the two runs, "plain" and "clahe".
        records: the validation images, in the order of each run's `ap`.
        samples: how many images to show with both predictions: the first ones.
        failures: how many (image, run) pairs to show, lowest AP at IoU 0.50 first.

    Returns:
        The page's path.

    Raises:
        ImageError: an image is gone.
        OutputError: the page cannot be written.
    """
    scored = [(ap, k, run) for run, view in runs.items() for k, ap in enumerate(view.ap) if ap is not None and ap < 1]
    worst = [(k, run) for _, k, run in sorted(scored, key=lambda entry: entry[:2])[:failures]]
    first = range(min(samples, len(records)))
    predictions: dict[tuple[int, str], Prediction] = {}
    for run, view in runs.items():
        wanted = sorted({*first, *(k for k, its_run in worst if its_run == run)})
        found = view.predict(read_image(records[k].path) for k in wanted)
        predictions |= {(k, run): prediction for k, prediction in zip(wanted, found, strict=True)}
    image = read_image(records[0].path) if records else None
    write_page(
        path,
        "report.html",
        results={run: view.numbers for run, view in runs.items()},
        names=RUNS,
        measures=MEASURES,
        charts=list(_charts(runs)),
        clahe=None if image is None else [over_histogram(enlarged(one)) for one in (image, apply_clahe(image))],
        samples=[_show(records[k], {run: predictions[k, run] for run in runs}) for k in first if runs],
        failures=[_show(records[k], {run: predictions[k, run]}) for k, run in worst],
        score=SCORE,
    )
    return path
