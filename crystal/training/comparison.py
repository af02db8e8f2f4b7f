"""`crystal table1`: does CLAHE help, and by how much? The paper's Table 1 as an experiment that can be believed.

For every seed two trainings that differ in CLAHE alone: the same images in the same order with the same variations
(the input is a function of the seed and the position), the same initial weights, the same steps. With `scratch` a third
one, with CLAHE but from random weights, says what the weights of --init are worth. Each is measured on the validation
images as in the paper (mAP on 10 random images at IoU 0.50 and on 100 at 0.65, drawn by the seed, the same ones for its
two trainings), and by what the paper lacks: all images, COCO's AP, mean and standard deviation over seeds, and the
interval of the paired difference.

    OUT/experiment.json                   what is compared; the same command, or one with other --seeds, goes on
    OUT/runs/<seed>-<arm>/                a run of `crystal train`, and evaluation.json when it is measured
    OUT/table1.json, table1.md, table1.html
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crystal.console import Bars, console
from crystal.data.dataset import Split, load_split, raise_if_left_out
from crystal.data.fingerprint import fingerprint
from crystal.errors import CrystalError
from crystal.evaluation.assessment import Assessment, assess, finite
from crystal.evaluation.metrics import average_precision
from crystal.evaluation.table1 import measures
from crystal.pages.table1 import print_table, write_markdown, write_table_page
from crystal.prediction.predictor import Predictor
from crystal.training.machine import describe_machine
from crystal.training.parallel_runs import Training, train_side_by_side
from crystal.training.run_folder import load_run, write_atomically
from crystal.training.trainer import resolve

IOUS = (0.5, 0.65)


class Table1Error(CrystalError, RuntimeError):
    """An experiment that cannot begin or go on; the message says why and what to do."""


class Arm(NamedTuple):
    """One of the things compared. `init`: whether it starts from the weights of --init."""

    title: str
    clahe: bool
    init: bool


ARMS = {
    "plain": Arm("without CLAHE", clahe=False, init=True),
    "clahe": Arm("with CLAHE", clahe=True, init=True),
    "scratch": Arm("with CLAHE, from random weights", clahe=True, init=False),
}


def arguments(arm: Arm, settings: Mapping[str, Any], *, seed: int) -> list[str]:
    """Of `crystal train`, for one arm and seed."""
    words = ["--data", settings["data"], "--preset", settings["preset"], "--seed", str(seed)]
    words.append("--clahe" if arm.clahe else "--no-clahe")
    if settings["init"] is not None and arm.init:
        words += ["--init", settings["init"]]
    if settings["steps"] is not None:
        words += ["--steps", str(settings["steps"])]
    for assignment in settings["set"]:
        words += ["--set", assignment]
    return words


def command(settings: Mapping[str, Any], out: Path, *, seeds: int, scratch: bool) -> str:
    """The command line that makes this experiment, whoever asked for it."""
    words = ["crystal", "table1", "--data", settings["data"], "--out", str(out), "--seeds", str(seeds)]
    words += ["--preset", settings["preset"]]
    for name in ("init", "steps"):
        words += [] if settings[name] is None else [f"--{name}", str(settings[name])]
    for assignment in settings["set"]:
        words += ["--set", assignment]
    return shlex.join([*words, "--scratch"] if scratch else words)


def claim_experiment(out: Path, settings: Mapping[str, Any]) -> None:
    """Write OUT/experiment.json, or check that what is there is the same experiment. Raises Table1Error."""
    path = out / "experiment.json"
    if path.exists():
        try:
            present = json.loads(path.read_text())
        except ValueError as error:
            raise Table1Error(f"{path} is damaged ({error}); remove {out}, or choose another --out") from error
        # Where the data lies does not matter, what it holds does.
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
    """Each image's average precision at the two thresholds, in order; nan where it has no object."""
    pairs = list(zip(assessment.truths, assessment.predictions, strict=True))
    return {f"{iou:.2f}": [average_precision(t, p, iou=iou) for t, p in pairs] for iou in IOUS}


def _read_evaluation(run: Path, steps: int) -> dict[str, Any] | None:
    """What was measured of the finished run, if it was."""
    try:
        evaluation = json.loads((run / "evaluation.json").read_text())
    except (OSError, ValueError):
        return None
    return evaluation if evaluation.get("steps") == steps else None


def _measure(
    run: Path, split: Split, *, seed: int, steps: int, seconds: float | None, progress: Callable[[int, str], None]
) -> None:
    """Write RUN/evaluation.json."""
    model, clahe = load_run(run)
    assessment = assess(Predictor(model, clahe=clahe), split, seed=seed, progress=progress)
    evaluation = {
        "steps": steps,
        "seconds": None if seconds is None else round(seconds, 1),
        "numbers": finite(assessment.numbers),
        "drawn": assessment.drawn,
        "ap": {iou: [None if np.isnan(v) else v for v in aps] for iou, aps in image_aps(assessment).items()},
    }
    write_atomically(run / "evaluation.json", json.dumps(evaluation))


def run_experiment(
    out: Path, settings: Mapping[str, Any], split: Split, *, arms: Sequence[str], seeds: int, steps: int, at_once: int
) -> dict[str, list[dict[str, Any]]]:
    """Train and measure what is not measured yet; the evaluations of each arm, seed by seed."""
    runs = {(seed, arm): out / "runs" / f"{seed}-{arm}" for seed in range(seeds) for arm in arms}
    missing = {key: run for key, run in runs.items() if _read_evaluation(run, steps) is None}
    trainings = {
        run: Training(run.name, run, arguments(ARMS[arm], settings, seed=seed), steps)
        for (seed, arm), run in missing.items()
    }
    seed_of = {run: seed for (seed, _), run in missing.items()}
    to_train = [training for training in trainings.values() if not training.finished()]
    with Bars() as bars:

        def measure(run: Path, seconds: float | None) -> None:
            bar = bars.add(f"measuring {run.name}", len(split.records))
            _measure(run, split, seed=seed_of[run], steps=steps, seconds=seconds, progress=bar)

        for run, training in trainings.items():
            if training.finished():
                measure(run, None)
        trained = train_side_by_side(to_train, bars=bars, compiled=out / "compiled", at_once=at_once)
        with contextlib.closing(trained):
            for training, seconds in trained:
                measure(training.out, seconds)
    evaluations = {key: _read_evaluation(run, steps) for key, run in runs.items()}
    return {arm: [found for seed in range(seeds) if (found := evaluations[seed, arm])] for arm in arms}


def table1(
    data: Path,
    out: Path,
    *,
    seeds: int,
    preset: str,
    init: str | None,
    steps: int | None,
    assignments: Sequence[str],
    scratch: bool,
    at_once: int,
) -> None:
    """The whole experiment; what is finished already is not done again."""
    if seeds < 1 or at_once < 1:
        raise Table1Error(f"--seeds {seeds} --at-once {at_once}: at least one of each is needed")
    if scratch and init is None:
        raise Table1Error("--scratch compares with the weights of --init; say which those are")
    train, val = load_split(data, "train"), load_split(data, "val")
    if not any(not instance.crowd for record in val.records for instance in record.instances):
        raise Table1Error(f"{val.source}: no image has an object, so there is nothing to measure; add some")
    resolved = resolve(
        train,
        preset=preset,
        init=init,
        steps=steps,
        checkpoint_every=None,
        seed=0,
        clahe=True,
        assignments=list(assignments),
    )
    settings = {
        "data": str(data),
        "content": {"train": fingerprint(train), "val": fingerprint(val)},
        "preset": preset,
        "init": init,
        "steps": steps,
        "set": list(assignments),
    }
    claim_experiment(out, settings)
    arms = [name for name in ARMS if name != "scratch" or scratch]
    evaluations = run_experiment(out, settings, val, arms=arms, seeds=seeds, steps=resolved.steps, at_once=at_once)
    results = {
        "command": command(settings, out, seeds=seeds, scratch=scratch),
        "machine": describe_machine(),
        "settings": {**settings, "steps": resolved.steps, "images": [len(train.records), len(val.records)]},
        "seeds": seeds,
        "arms": {name: ARMS[name].title for name in arms},
        "measures": measures(evaluations),
        "seconds": {arm: [one["seconds"] for one in own] for arm, own in evaluations.items()},
        "ap": {arm: [one["ap"] for one in own] for arm, own in evaluations.items()},
    }
    write_atomically(out / "table1.json", json.dumps(_rounded(results), allow_nan=False) + "\n")
    print_table(results)
    write_markdown(out / "table1.md", results)
    page = write_table_page(out / "table1.html", results, runs=out / "runs")
    console.print(f"{page} shows the plots; the table is in table1.md, every figure in table1.json")
    for split in (train, val):
        raise_if_left_out(split)


def _rounded(value: Any) -> Any:
    """For JSON: four decimals are more than a hundred images can tell; nan becomes null."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value
