"""`crystal table1`: does CLAHE help, and by how much? The paper's Table 1 as an experiment with seeds and intervals.

For every seed there are two trainings that differ only in CLAHE: the same images in the same order with the same
augmentation, the same starting weights, the same steps. With `scratch` a third one, with CLAHE and from random weights,
shows what the weights of --init are worth. Each is measured on the validation images as in the paper (mAP on 10 random
images at IoU 0.50 and on 100 at 0.65, drawn by the seed, the same ones for all trainings of a seed), and in what the
paper lacks: all images, COCO's AP, mean and standard deviation over seeds, and intervals of the paired difference.

    OUT/experiment.json                   the settings; the same command, also with other --seeds, goes on
    OUT/runs/<seed>-<arm>/                a run folder of `crystal train`, with evaluation.json once it is measured
    OUT/table1.json, table1.md, table1.html
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crystal.console import Bars
from crystal.data.dataset import Split
from crystal.errors import CrystalError
from crystal.evaluation.assessment import Assessment, assess, without_nan
from crystal.evaluation.metrics import average_precision
from crystal.files import write_atomically
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import as_trained
from crystal.training.machine import commit
from crystal.training.options import Table1, Train, start_of
from crystal.training.parallel_runs import Training, train_in_parallel

IOUS = (0.5, 0.65)


class Table1Error(CrystalError, RuntimeError):
    """An experiment that cannot begin or go on."""


class Arm(NamedTuple):
    """A kind of training that is compared. `init`: whether it starts from the weights of --init."""

    title: str
    clahe: bool
    init: bool


ARMS = {
    "plain": Arm("without CLAHE", clahe=False, init=True),
    "clahe": Arm("with CLAHE", clahe=True, init=True),
    "scratch": Arm("with CLAHE, from random weights", clahe=True, init=False),
}


def training_options(arm: Arm, options: Table1, *, seed: int, out: Path) -> Train:
    """The options of `crystal train` for one arm and seed."""
    return Train(
        data=options.data,
        out=out,
        preset=options.preset,
        init=start_of(options) if arm.init else "none",
        steps=options.steps,
        seed=seed,
        clahe=arm.clahe,
        set=options.set,
        crowds_as_objects=options.crowds_as_objects,
    )


def command(options: Table1) -> str:
    """The command line of this experiment, also when another command has asked for it."""
    words = ["crystal", "table1", "--data", str(options.data), "--out", str(options.out)]
    words += ["--seeds", str(options.seeds), "--preset", options.preset]
    for name, value in (("--init", options.init), ("--steps", options.steps)):
        words += [] if value is None else [name, str(value)]
    for assignment in options.set:
        words += ["--set", assignment]
    words += ["--crowds-as-objects"] if options.crowds_as_objects else []
    return shlex.join([*words, "--scratch"] if options.scratch else words)


def claim_experiment(out: Path, settings: Mapping[str, Any]) -> None:
    """Write OUT/experiment.json, or check that the one there has the same settings. Raises Table1Error if not."""
    path = out / "experiment.json"
    if path.exists():
        try:
            present = json.loads(path.read_text())
        except ValueError as error:
            raise Table1Error(f"{path} is damaged ({error}); remove {out}, or choose another --out") from error
        # Not the folder of the data: "content" is its fingerprint.
        differing = [key for key in settings if key != "data" and present.get(key) != settings[key]]
        if differing:
            raise Table1Error(
                f"{out} holds an experiment with other settings ({', '.join(differing)}); choose another --out, or "
                "repeat the command that began it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Table1Error(f"{out} already exists and is no experiment of table1; choose another --out")
    else:
        (out / "runs").mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=1))


def image_aps(assessment: Assessment) -> dict[str, list[float]]:
    """Each image's average precision by IoU threshold, in order; NaN for images without objects."""
    pairs = list(zip(assessment.truths, assessment.predictions, strict=True))
    return {f"{iou:.2f}": [average_precision(t, p, iou=iou) for t, p in pairs] for iou in IOUS}


def _read_evaluation(run: Path, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """RUN/evaluation.json; None if the run is not measured yet, or not after as many steps and by the same code."""
    try:
        evaluation = json.loads((run / "evaluation.json").read_text())
    except (OSError, ValueError):
        return None
    return evaluation if all(evaluation.get(key) == value for key, value in made.items()) else None


def _measure(
    run: Path,
    split: Split,
    *,
    seed: int,
    made: Mapping[str, Any],
    seconds: float | None,
    progress: Callable[[int, str], None],
) -> None:
    """Write RUN/evaluation.json."""
    model = load_run(run)
    predictor = Predictor(model, zoom=as_trained(model.config.image.zooms))
    assessment = assess(predictor, split, seed=seed, progress=progress)
    evaluation = {
        **made,
        "seconds": None if seconds is None else round(seconds, 1),
        "numbers": without_nan(assessment.numbers),
        "drawn": assessment.drawn,
        "ap": {iou: [None if np.isnan(v) else v for v in aps] for iou, aps in image_aps(assessment).items()},
    }
    write_atomically(run / "evaluation.json", json.dumps(evaluation))


def run_experiment(
    options: Table1, split: Split, *, arms: Sequence[str], steps: int
) -> dict[str, list[dict[str, Any]]]:
    """Train and measure what is not measured yet.

    Args:
        options: of `crystal table1`.
        split: the validation images.
        arms: names in `ARMS`.
        steps: of each training.

    Returns:
        The evaluations of each arm, seed by seed.

    Raises:
        TrainingError: a training has failed.
    """
    out, made = options.out, {"steps": steps, "commit": commit()}
    runs = {(seed, arm): out / "runs" / f"{seed}-{arm}" for seed in range(options.seeds) for arm in arms}
    missing = {key: run for key, run in runs.items() if _read_evaluation(run, made) is None}
    trainings = {
        run: Training(run.name, training_options(ARMS[arm], options, seed=seed, out=run), steps)
        for (seed, arm), run in missing.items()
    }
    seed_of = {run: seed for (seed, _), run in missing.items()}
    to_train = [training for training in trainings.values() if not training.finished()]
    with Bars() as bars:

        def measure(run: Path, seconds: float | None) -> None:
            bar = bars.add(f"measuring {run.name}", len(split.records))
            _measure(run, split, seed=seed_of[run], made=made, seconds=seconds, progress=bar)

        for run, training in trainings.items():
            if training.finished():
                measure(run, None)
        trained = train_in_parallel(to_train, bars=bars, compiled=out / "compiled", at_once=options.at_once)
        with contextlib.closing(trained):
            for training, seconds in trained:
                measure(training.out, seconds)
    evaluations = {key: _read_evaluation(run, made) for key, run in runs.items()}
    return {arm: [found for seed in range(options.seeds) if (found := evaluations[seed, arm])] for arm in arms}
