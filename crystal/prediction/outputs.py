"""The files of `crystal predict`, which replace those of an earlier run together, once all are complete.

    DIR/overlays/<name>.jpg    the image with outlines, each with its number in the CSV, if few also with its score
    DIR/crystals.csv           a row a crystal (columns: tables.py)
    DIR/drops.csv              a row an image, the most promising first
    DIR/plate.html             all of it to look through, where the command gives a function that writes it
    DIR/predictions.json       a COCO dict: images, categories, annotations = detections of any score, with zoom and RLE
    DIR/labelme/<name>.json    outlines to correct by hand, if asked for: `labelme IMAGES --output DIR/labelme`

Everything is written into a hidden folder inside DIR and renamed when complete, so a full disk, an error or Ctrl-C
leaves what an earlier run wrote, and nothing half-written. What was found in each image lies there as a file of its own
until the tables are made of them, so memory does not grow with the number of images. With `--watch` the hidden folder
stays, and the next start goes on with it.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import UInt8

from crystal.data.labelme.export import is_edited
from crystal.files import OutputError, OutputName, explained_writing, refuse_replacing, write_atomically
from crystal.prediction.calibration import UNKNOWN, Calibration
from crystal.prediction.picture_files import labelme_text, overlay, shown
from crystal.prediction.predictor import Prediction
from crystal.prediction.results import (
    Result,
    annotations_of,
    counted,
    measured,
    small_picture,
)
from crystal.prediction.table_files import INFO, Page, write_tables

TABLES = ("predictions.json", "crystals.csv", "drops.csv")
PAGE = "plate.html"
WATCHING = ".watching"  # the hidden folder that stays


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds what `crystal predict` would replace and did not write.

    Raises:
        OutputError: somebody else's overlays, tables or predictions are there.
    """
    names = [name for name in ("overlays", *TABLES, PAGE) if (out / name).exists()]
    if names:
        ours = out / "predictions.json"
        if not ours.exists():
            raise OutputError(
                f"{out / names[0]} is of no earlier prediction and would be replaced; choose another --out"
            )
        refuse_replacing(ours, INFO, "an earlier prediction's")


class OutputFolder:
    """A context that gathers results with `add` and puts them in place with `publish`; without that, nothing changes.

    Args:
        out: the folder, created if needed.
        classes: (COCO id, name) of each class, background first.
        score_threshold: lowest score that is drawn, listed in the CSV and written for LabelMe.
        labelme: whether to write LabelMe files.
        calibration: micrometres a pixel, where known.
        outside: whether crystals outside the drop are counted and drawn.
        write_page: writes plate.html, to the path given; there is none without it.
        resume: what must be the same for results of an earlier start to be kept and added to (`--watch`); without it
            they are replaced.

    Raises:
        OutputError: from every method, where a file cannot be written; at the start, where `resume` differs from the
            earlier start's or another process is at work on the same folder.
    """

    def __init__(
        self,
        out: Path,
        *,
        classes: Sequence[tuple[int, str]],
        score_threshold: float,
        labelme: bool,
        calibration: Calibration = UNKNOWN,
        outside: bool = False,
        write_page: Callable[[Path, Page], None] | None = None,
        resume: dict[str, Any] | None = None,
    ):
        self.out = out
        self.classes = tuple(classes)
        self.score_threshold = score_threshold
        self.labelme = labelme
        self.calibration = calibration
        self.outside = outside
        self.write_page = write_page
        self.resume = resume
        self.done = self.crystals = self.left_out = self.without_scale = 0
        self.edited: list[Path] = []
        self._replaces = True  # the overlays of an earlier run, with the first that are published
        self._names: dict[str, OutputName] = {}  # of each source that is done, in the order of the tables
        self.signatures: dict[str, tuple[int, ...]] = {}  # (size, modification time) of each source that is done

    def __enter__(self) -> Self:
        refuse_foreign(self.out)
        with explained_writing(self.out), contextlib.ExitStack() as undo:
            self.out.mkdir(parents=True, exist_ok=True)
            if self.resume is None:
                if (self.out / WATCHING).exists():
                    undo.enter_context(self._locked(self.out / WATCHING))
                self._new = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.out))
                undo.callback(shutil.rmtree, self._new, ignore_errors=True)
            else:
                self._new = self.out / WATCHING
                self._new.mkdir(exist_ok=True)
                undo.enter_context(self._locked(self._new))
            for folder in ("results", "overlays", "labelme"):
                (self._new / folder).mkdir(exist_ok=True)
            if self.resume is not None:
                self._take_up(self.resume)
            self._undo = undo.pop_all()
        return self

    @contextlib.contextmanager
    def _locked(self, watching: Path) -> Iterator[None]:
        try:
            with FileLock(watching / "lock", timeout=0):
                yield
        except Timeout as error:
            raise OutputError(f"{self.out}: another `crystal predict --watch` writes there; stop it first") from error

    def _take_up(self, settings: dict[str, Any]) -> None:
        """Go on with what an earlier start left."""
        place = self._new / "settings.json"
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(place.read_text())
            self._replaces = False
            if before != settings:
                names = ", ".join(f"--{name}" for name in settings if before.get(name) != settings[name])
                raise OutputError(
                    f"{self.out}: was begun with other settings ({names}); choose another --out, or remove "
                    f"{self._new} to begin anew"
                )
        write_atomically(place, json.dumps(settings))
        for path in sorted((self._new / "results").glob("*.json")):
            try:
                result = Result.from_json(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError, KeyError):
                path.unlink()  # cut short by a power failure, say; the picture is predicted again
                continue
            self._note(result)

    def _note(self, result: Result) -> None:
        self._names[result.source] = OutputName(result.file_name, result.stem)
        self.signatures[result.source] = result.signature

    @property
    def names(self) -> dict[str, OutputName]:
        """What each source that is done is called."""
        return dict(self._names)

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._undo.close()

    def add(
        self,
        path: Path,
        name: OutputName,
        image: UInt8[np.ndarray, "h w 3"],
        prediction: Prediction,
        signature: tuple[int, ...] = (),
    ) -> None:
        """Write one image's results under its name; those of the same file before are replaced."""
        height, width = image.shape[:2]
        picture = self._new / "overlays" / f"{name.stem}.jpg"
        with explained_writing(picture):
            settings: Any = {"score_threshold": self.score_threshold, "outside": self.outside}
            crystals, drop = measured(prediction, self.classes, width=width, **settings)
            what = shown(prediction, crystals, self.classes, **settings)
            write_atomically(picture, overlay(image, prediction, what))
            if self.labelme:
                names = [self.classes[c][1] for c in prediction.classes]
                place = self.out / "labelme" / f"{name.stem}.json"
                text = labelme_text(path, place, (height, width), prediction, names, what)
                (self._new / "labelme" / place.name).write_text(text, encoding="utf-8")
            result = Result(
                source=str(path.absolute()),
                file_name=name.file_name,
                stem=name.stem,
                height=height,
                width=width,
                crystals=crystals,
                drop=drop,
                annotations=annotations_of(prediction, self.classes, **settings),
                picture=small_picture(image) if self.write_page else "",
                signature=signature,
            )
            # Last: a picture is done when its result is there.
            write_atomically(self._new / "results" / f"{name.stem}.json", result.to_json())
        self._note(result)
        self.done += 1
        here = counted(crystals, self.score_threshold, self.outside)
        self.crystals += len(here)
        self.left_out += len(counted(crystals, self.score_threshold, True)) - len(here)
        self.without_scale += bool(self.calibration.um_per_pixel) and not self.calibration.of(height, width)

    def results(self) -> Iterator[Result]:
        """What was found in each picture; one in memory at a time."""
        for name in self._names.values():
            yield self.result(name.stem)

    def result(self, stem: str) -> Result:
        """What was found in the picture of that stem."""
        return Result.from_json((self._new / "results" / f"{stem}.json").read_text(encoding="utf-8"))

    def publish(self) -> None:
        """Complete the files and put them in the place of an earlier run's."""
        with explained_writing(self.out):
            page = write_tables(self._new, self)
            if self.write_page:
                self.write_page(self._new / PAGE, page)
            overlays, old = self.out / "overlays", self._new / "old"
            if self._replaces:
                for earlier in (self.out / "labelme").glob("*.json"):
                    if not is_edited(earlier):
                        earlier.unlink()
            if self._replaces and overlays.exists():
                os.replace(overlays, old)
            if self._replaces and self.resume is None:
                shutil.rmtree(self.out / WATCHING, ignore_errors=True)  # it belongs to what is replaced
            self._replaces = False
            overlays.mkdir(exist_ok=True)
            for new in sorted((self._new / "overlays").glob("[!.]*")):  # hidden ones are half-written
                os.replace(new, overlays / new.name)
            shutil.rmtree(old, ignore_errors=True)
            if self.labelme:
                (self.out / "labelme").mkdir(exist_ok=True)
                for new in sorted((self._new / "labelme").iterdir()):
                    place = self.out / "labelme" / new.name
                    if is_edited(place):
                        self.edited.append(place)
                        new.unlink()
                    else:
                        os.replace(new, place)
            for name in (*TABLES, PAGE) if self.write_page else TABLES:
                os.replace(self._new / name, self.out / name)
