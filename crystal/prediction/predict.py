"""Prediction of image files into a folder of results: overlays, tables, COCO and LabelMe files, a page."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crystal.data.images import Image, ImageError, Page, count_pages, read_image
from crystal.files import OutputName, name_outputs
from crystal.prediction.outputs import OutputFolder
from crystal.prediction.predictor import Predictor

Signature = tuple[int, ...]  # (size, modification time) of a file


class PredictSummary(NamedTuple):
    """What became of a batch of files.

    Attributes:
        done: number of images predicted.
        crystals: number of instances, in all images, that reached the score threshold.
        failed: (file, reason) of each image that could not be read. The reason is a sentence that names the file and
            the remedy.
        edited: LabelMe files that were not replaced, because somebody had edited them since they were predicted.
        stacks: number of files whose sharpest page of several was taken.
        zooms: at which the images were looked at, all together.
        full: number of images with a view all of whose slots were filled by detections that reach the score threshold,
            so that others may be missing.
        left_out: number of crystals that were not counted since they lie outside the drop.
        without_scale: number of images of another size than the imager's, for which there are no micrometres.
    """

    done: int
    crystals: int
    failed: list[tuple[Path, str]]
    edited: list[Path]
    stacks: int = 0
    zooms: tuple[float, ...] = ()
    full: int = 0
    left_out: int = 0
    without_scale: int = 0


class Tally:
    """What became of the files so far; see `PredictSummary`."""

    def __init__(self) -> None:
        self.failed: dict[Path, str] = {}
        self.stacks = self.full = 0
        self.zooms: set[float] = set()

    def summary(self, folder: OutputFolder) -> PredictSummary:
        """The sum, with what the folder has counted."""
        return PredictSummary(
            done=folder.done,
            crystals=folder.crystals,
            failed=list(self.failed.items()),
            edited=folder.edited,
            stacks=self.stacks,
            zooms=tuple(sorted(self.zooms)),
            full=self.full,
            left_out=folder.left_out,
            without_scale=folder.without_scale,
        )


def predict_into(
    folder: OutputFolder,
    predictor: Predictor,
    names: Mapping[Path, OutputName],
    tally: Tally,
    *,
    page: Page = "sharpest",
    progress: Callable[[Path], object] = lambda path: None,
    signatures: Mapping[Path, Signature] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Predict image files one after the other and add what is found to a folder.

    Args:
        folder: takes the results; it is not published.
        predictor: the model.
        names: what each file is called in the results.
        tally: takes note of what happens.
        page: which page of TIFF files, see `read_image`.
        progress: called with each file when it is done or has failed; from the reading thread where it failed.
        signatures: of the files, to be kept with the results.
        stop: asked before each file is read; once it says so, those that were read are finished.
    """
    waiting: deque[tuple[Path, Image]] = deque()  # images that were read and are not predicted yet; batches bound it

    def read() -> Iterator[Image]:
        for path in names:
            if stop():
                return
            try:
                image = read_image(path, page)
            except (ImageError, OSError) as error:
                tally.failed[path] = str(error)
                progress(path)
            else:
                tally.failed.pop(path, None)
                tally.stacks += page == "sharpest" and count_pages(path).stack > 1
                waiting.append((path, image))
                yield image

    for prediction in predictor(read()):
        path, image = waiting.popleft()
        folder.add(path, names[path], image, prediction, (signatures or {}).get(path, ()))
        tally.zooms.update(view.zoom for view in predictor.views(*image.shape[:2]))
        tally.full += prediction.complete_from >= max(folder.score_threshold, 1e-9)
        progress(path)


def predict_folder(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    score_threshold: float = 0.5,
    labelme: bool = False,
    page: Page = "sharpest",
    progress: Callable[[Path], object] = lambda path: None,
    **settings: Any,
) -> PredictSummary:
    """Predict image files and write what `crystal predict` promises into a folder (see `outputs.py`).

    Detections of any score go into predictions.json, as a precision-recall curve needs them; overlays, the tables and
    LabelMe files hold those that reach `score_threshold`. What an earlier run left in `out` is replaced when all images
    are done; if the run fails or is interrupted, or no image can be read, it stays as it was.

    Args:
        predictor: the model.
        paths: image files. The same file name may occur in several folders.
        out: the folder to write to, made if need be.
        score_threshold: the least score that is drawn and listed, in [0, 1].
        labelme: whether to write a LabelMe JSON an image as well.
        page: which page of TIFF files, see `read_image`.
        progress: called with each file when it is done or has failed; from the reading thread where it failed.
        **settings: of `OutputFolder`: calibration, outside, write_page.

    Returns:
        The `PredictSummary`; files that could not be read are in `failed`.

    Raises:
        OutputError: `out` cannot be written: disk full, no permission.
    """
    # Where `out` lies among the images, the next run's search finds our own overlays.
    ours = (out / "overlays").absolute()
    # One entry a file, even where a path is given twice.
    names = name_outputs([path for path in paths if ours not in path.absolute().parents])
    tally = Tally()
    classes = predictor.config.classes
    with OutputFolder(out, classes=classes, score_threshold=score_threshold, labelme=labelme, **settings) as folder:
        predict_into(folder, predictor, names, tally, page=page, progress=progress)
        if folder.done:
            folder.publish()
    return tally.summary(folder)
