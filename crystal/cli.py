"""The command line: `crystal demo | render | convert | check | train | table1 | evaluate | predict | inspect`, or
`python -m crystal` for `crystal`.

Every foreseen failure ends in one sentence that names the file and the remedy, and an exit code that is not 0:
1 failed, 2 wrong usage, 130 interrupted. Heavy imports wait until a command needs them, so that --help is quick.
"""

import gc
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crystal.errors import CrystalError

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@dataclass
class Demo:
    """Render drops, train without and with CLAHE, evaluate both, print the paper's table, write a report."""

    out: Path = Path("runs/demo")
    steps: int | None = None
    """Training steps of each of the two runs; the default fits a 2-core machine and 15 minutes."""
    train: int = 400
    """Drops to train on."""
    val: int = 120
    """Held-out drops to evaluate on."""
    seed: int = 0
    light: float = 0.5
    """How bad the light is, 0 to 1."""

    def run(self) -> int:
        from crystal.demo import demo

        demo(self.out, steps=self.steps, train=self.train, val=self.val, seed=self.seed, light=self.light)
        return 0


@dataclass
class Render:
    """Draw drops with exact masks: images, a LabelMe JSON beside each, one COCO JSON a split."""

    out: Path
    train: int
    val: int
    seed: int = 0
    light: float = 0.5
    """How bad the light is, 0 to 1; masks do not depend on it."""

    def run(self) -> int:
        from crystal.console import console, one_bar
        from crystal.drops.render import render_dataset

        with one_bar("rendering", self.train + self.val) as bar:
            render_dataset(
                self.out,
                train=self.train,
                val=self.val,
                seed=self.seed,
                light=self.light,
                progress=lambda done, total: bar(done),
            )
        console.print(f"{self.out}: {self.train} + {self.val} drops")
        return 0


@dataclass
class Convert:
    """Turn folders of LabelMe files into a dataset: images, one COCO JSON a split, LabelMe's pictures and masks."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """LabelMe files, or folders searched at any depth."""
    out: Path
    labels: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """old=new renames a label, old= drops it, *= drops all that are not named; may be given several times."""
    val: float = 0.2
    """Share of the images for validation; whole drops go to one split."""
    test: float = 0.0
    """Share of the images to keep for a last test."""
    seed: int = 0
    """Draws the splits."""
    group: str | None = None
    """Regular expression that finds the drop or plate in a name; by default up to a well such as 01A or B03."""
    workers: int | None = None
    """Processes; as many as there are cores by default."""

    def run(self) -> int:
        from crystal.data.convert import convert_command

        return convert_command(
            self.folders,
            self.out,
            labels=self.labels,
            val=self.val,
            test=self.test,
            seed=self.seed,
            group=self.group,
            workers=self.workers,
        )


@dataclass
class Check:
    """List all that is wrong with a dataset and what training will do about it; write a page that shows it.

    The exit code is 1 where there are errors, 0 where there are only warnings and notes.
    """

    dataset: tyro.conf.Positional[Path]
    """A folder with splits, or one COCO JSON file."""
    out: Path | None = None
    """The page; DATASET/check.html unless told."""
    preset: Literal["tiny", "paper"] = "tiny"
    """Whose anchors and image size the objects are held against."""
    rows: int = 100
    """Lines of the table that are printed; 0 for all."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting of the preset, as in train."""

    def run(self) -> int:
        from crystal.data.check import check_command

        return check_command(self.dataset, out=self.out, preset=self.preset, assignments=list(self.set), rows=self.rows)


@dataclass
class Train:
    """Train a model on DATASET/train; the same command again goes on where it stopped."""

    data: Path
    out: Path
    preset: Literal["tiny", "paper"] = "tiny"
    init: str | None = None
    """Weights to start from: a checkpoint or run folder; a file of COCO weights as Matterport (h5), torchvision (pth)
    or Detectron2 (pkl) published it; or "shapes", the small ones that come with the package."""
    steps: int | None = None
    """Steps in all; the preset's phases keep their shares."""
    checkpoint_every: int | None = None
    seed: int = 0
    clahe: bool = True
    """Equalise the images (CLAHE) before the network."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting, key=value, e.g. rpn.nms_iou=0.6; may be given several times."""
    resume: bool = False
    """Only go on with a run: refuse where --out holds none."""

    def run(self) -> int:
        from crystal.training.trainer import train_command

        train_command(
            self.data,
            self.out,
            preset=self.preset,
            init=self.init,
            steps=self.steps,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
            clahe=self.clahe,
            assignments=list(self.set),
            resume=self.resume,
        )
        return 0


@dataclass
class Table1:
    """Train without and with CLAHE, from the same weights and images in the same order, for several seeds; compare.

    The paper's Table 1 with what it lacks: all images, COCO's AP, spread over seeds, intervals of the difference. The
    same command goes on where it stopped; more --seeds are added to what is there.
    """

    data: Path
    out: Path = Path("runs/table1")
    seeds: int = 3
    """Trainings of each kind, with the seeds 0, 1, ...: of order, variations, fresh weights and drawn images."""
    preset: Literal["tiny", "paper"] = "tiny"
    init: str | None = None
    """Weights to start from, as in train."""
    steps: int | None = None
    """Steps of each training; the preset's unless told."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting, as in train."""
    scratch: bool = False
    """Train a third one from random weights, with CLAHE, to see what the weights of --init are worth."""
    at_once: int = 2
    """Trainings that run side by side; 1 where one of them fills the machine."""

    def run(self) -> int:
        from crystal.training.comparison import table1

        table1(
            self.data,
            self.out,
            seeds=self.seeds,
            preset=self.preset,
            init=self.init,
            steps=self.steps,
            assignments=self.set,
            scratch=self.scratch,
            at_once=self.at_once,
        )
        return 0


@dataclass
class Evaluate:
    """Measure a run on DATASET/val: the paper's mAP, precision and recall, and COCO's numbers."""

    weights: Path
    data: Path
    split: str = "val"
    seed: int = 0
    """Draws the 10 and the 100 images of the paper's table."""
    out: Path | None = None
    """Also write the numbers to this JSON file."""

    def run(self) -> int:
        from crystal.evaluation.assessment import evaluate_command

        evaluate_command(self.weights, self.data, split=self.split, seed=self.seed, out=self.out)
        return 0


@dataclass
class Predict:
    """Outline crystals in files or folders: overlays, crystals.csv and predictions.json."""

    weights: Path
    images: tuple[Path, ...]
    out: Path
    score: float = 0.5
    """Crystals under this score are left out of overlays and CSV."""
    labelme: bool = False
    """Also write LabelMe files, to be corrected by hand and trained on."""

    def run(self) -> int:
        from crystal.prediction.predictor import predict_command

        return predict_command(self.weights, self.images, self.out, score_threshold=self.score, labelme=self.labelme)


@dataclass
class Inspect:
    """Follow one image through the network: a page with every stage's pictures, numbers, times and what they mean."""

    image: tyro.conf.Positional[Path]
    weights: Path
    """A run folder or a checkpoint."""
    out: Path
    """The page, which holds all it needs."""
    truth: Path | None = None
    """Ground truth: a LabelMe JSON of the image, or a COCO JSON that lists it, in its dataset; by default the LabelMe
    JSON beside the image, if there is one."""

    def run(self) -> int:
        from crystal.pages.inspect import inspect_command

        inspect_command(self.image, self.weights, self.out, truth=self.truth)
        return 0


COMMANDS = {
    "demo": Demo,
    "render": Render,
    "convert": Convert,
    "check": Check,
    "train": Train,
    "table1": Table1,
    "evaluate": Evaluate,
    "predict": Predict,
    "inspect": Inspect,
}


def main() -> None:
    """Entry point of the console script."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="crystal", description="Find and outline protein crystals in crystallization-drop images."
    )
    # Tracing makes objects by the million that live on, and the collector would look at them again and again.
    gc.set_threshold(100_000, 20, 100)
    try:
        if not isinstance(command, Render | Convert):  # they run no network, and JAX takes a second to import
            from crystal.training.allocator import keep_freed_memory, prepare_heaps

            prepare_heaps()
            if not isinstance(command, Train):  # it does that itself, when its step is compiled
                keep_freed_memory()
        code = command.run()
    except KeyboardInterrupt as error:
        # Trainer names the signal: a scheduler's SIGTERM has an exit code of its own.
        print("\ninterrupted; the same command goes on or starts again", file=sys.stderr)
        code = TERMINATED if str(error) == "SIGTERM" else INTERRUPTED
    except Exception as error:
        from maskrcnn_jax.checkpoint import CheckpointError

        if isinstance(error, CrystalError | CheckpointError | FileExistsError):
            message = str(error)
        elif isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}; make room or choose another folder"
        else:
            raise
        print(f"error: {message}", file=sys.stderr)
        code = FAILED
    sys.exit(code)
