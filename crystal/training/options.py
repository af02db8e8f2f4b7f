"""The options of `crystal train` and `crystal table1`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crystal.errors import MAX_SEED, require_range


@dataclass
class Train:
    """Train a model on DATASET/train; the same command again goes on where it stopped."""

    data: Path
    out: Path
    preset: Literal["tiny", "small", "paper"] = "tiny"
    """tiny and small: for two CPU cores, minutes or an hour; paper: ResNet101 at 512 x 512, for a GPU."""
    init: str | None = None
    """Weights to start from: a checkpoint or run folder; a file of COCO weights as Matterport (h5), torchvision (pth)
    or Detectron2 (pkl) published it; "crystal", the weights of `crystal predict`, the default of tiny and small;
    "shapes", weights of ordinary shapes that have seen no crystal; or "none", random ones."""
    steps: int | None = None
    """Total number of steps, by default as many as suit the number of images; phases keep their shares."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default the preset's."""
    learning_rate: float | None = None
    """Peak learning rate of the first phase; those of the others keep their ratio to it. By default the preset's."""
    seed: int = 0
    """Of the order of images, augmentation and random weights."""
    clahe: bool = True
    """Equalise the images (CLAHE) before the network."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting, key=value, e.g. rpn.proposals.nms_iou=0.6; may be given several times."""
    crowds_as_objects: bool = False
    """Take annotations with iscrowd 1 for objects, not for regions to ignore: CVAT exports brush masks so."""
    resume: bool = False
    """Only continue a run: an --out without one is refused."""

    def __post_init__(self) -> None:
        require_range("--seed", self.seed, 0, MAX_SEED)
        for name, value in (("--steps", self.steps), ("--checkpoint-every", self.checkpoint_every)):
            if value is not None:
                require_range(name, value, 1)
        if self.learning_rate is not None:
            require_range("--learning-rate", self.learning_rate, 0, above=True)


@dataclass
class Table1:
    """Train without and with CLAHE, from the same weights and images in the same order, for several seeds; compare.

    The paper's Table 1, and beyond it all images, COCO's AP, the spread over seeds and intervals of the difference. The
    same command goes on where it stopped; more --seeds add to what is there.
    """

    data: Path
    out: Path = Path("runs/table1")
    seeds: int = 3
    """Trainings of each kind, with the seeds 0, 1, ... of image order, augmentation and random weights."""
    preset: Literal["tiny", "small", "paper"] = "tiny"
    init: str | None = None
    """Weights to start from, as in train."""
    steps: int | None = None
    """Steps of each training; by default the preset's."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting, as in train."""
    crowds_as_objects: bool = False
    """Take annotations with iscrowd 1 for objects, as in train."""
    scratch: bool = False
    """Train a third model from random weights, with CLAHE, to measure what the weights of --init contribute."""
    at_once: int = 2
    """Trainings that run at the same time; 1 if one of them fills the machine."""

    def __post_init__(self) -> None:
        for name, value in (("--seeds", self.seeds), ("--at-once", self.at_once), ("--steps", self.steps)):
            if value is not None:
                require_range(name, value, 1)


def start_of(options: Train | Table1) -> str:
    """What `--init` says, or else what the preset starts from."""
    return options.init or ("none" if options.preset == "paper" else "crystal")


def command_line(options: Train) -> list[str]:
    """The words of `crystal train` that give these options.

    >>> command_line(Train(data=Path("drops"), out=Path("run"), clahe=False, set=("slots=8",)))
    ['--data', 'drops', '--out', 'run', '--preset', 'tiny', '--seed', '0', '--no-clahe', '--set', 'slots=8']
    """
    words: list[str] = []
    for field_ in fields(options):
        name, value = f"--{field_.name.replace('_', '-')}", getattr(options, field_.name)
        if isinstance(value, bool):
            words += [name if value else f"--no-{field_.name.replace('_', '-')}"] if value != field_.default else []
        elif isinstance(value, tuple):
            words += [word for one in value for word in (name, one)]
        elif value is not None:
            words += [name, str(value)]
    return words
