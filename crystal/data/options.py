"""The options of `crystal convert` and `crystal check`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crystal.errors import require_range


@dataclass
class Convert:
    """Turn folders of LabelMe files into a dataset: images, one COCO JSON a split, LabelMe's pictures and masks."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """LabelMe files, or folders searched at any depth."""
    out: Path
    """A new folder."""
    labels: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """old=new renames a label, old= drops it, *= drops all that are not named; may be given several times."""
    val: float = 0.2
    """Share of the images for validation; whole drops go to one split."""
    test: float = 0.0
    """Share of the images to keep for a last test."""
    seed: int = 0
    """Of the random assignment to splits."""
    group: str | None = None
    """Regular expression that finds the drop or plate in a name; by default up to a well such as 01A or B03."""
    workers: int | None = None
    """Number of processes; by default that of the cores."""

    def __post_init__(self) -> None:
        require_range("--val", self.val, 0, 1)
        require_range("--test", self.test, 0, 1)
        require_range("--seed", self.seed, 0)
        if self.workers is not None:
            require_range("--workers", self.workers, 1)


@dataclass
class Check:
    """List everything wrong with a dataset, and what training will do about it; write a page that shows it.

    The exit code is 1 where there are errors, 0 where there are only warnings and notes.
    """

    dataset: tyro.conf.Positional[Path]
    """A folder with splits, or one COCO JSON file."""
    out: Path | None = None
    """The page; by default DATASET/check.html."""
    preset: Literal["tiny", "small", "paper"] = "tiny"
    """The preset whose anchors and image size the objects are compared with."""
    crowds_as_objects: bool = False
    """Take annotations with iscrowd 1 for objects, as in train."""
    rows: int = 100
    """Number of lines of the table to print; 0 for all."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default_factory=tuple)
    """Change one setting of the preset, as in train."""

    def __post_init__(self) -> None:
        require_range("--rows", self.rows, 0)
