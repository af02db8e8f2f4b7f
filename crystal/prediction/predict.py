"""`crystal predict`: outline the crystals in image files, and write overlays, tables and COCO or LabelMe files."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crystal.console import console, one_bar, printable
from crystal.data.images import Image, ImageError, Page, count_pages, find_images, read_image
from crystal.files import name_outputs
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.options import Predict
from crystal.prediction.outputs import OutputFolder, refuse_foreign
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import listed, parse_zoom


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
    """

    done: int
    crystals: int
    failed: list[tuple[Path, str]]
    edited: list[Path]
    stacks: int = 0
    zooms: tuple[float, ...] = ()
    full: int = 0


def predict_folder(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    score_threshold: float = 0.5,
    labelme: bool = False,
    page: Page = "sharpest",
    progress: Callable[[Path], object] | None = None,
) -> PredictSummary:
    """Predict image files and write what `crystal predict` promises into a folder (see `outputs.py`).

    All detections go into predictions.json, which a precision-recall curve needs whole; overlays, the CSV and LabelMe
    files hold those that reach `score_threshold`. What an earlier run left in `out` is replaced when all images are
    done; if the run fails or is interrupted, or no image can be read, it stays as it was.

    Args:
        predictor: the model.
        paths: image files. The same file name may occur in several folders.
        out: the folder to write to, made if need be.
        score_threshold: the least score that is drawn and listed, in [0, 1].
        labelme: whether to write a LabelMe JSON an image as well.
        page: which page of TIFF files, see `read_image`.
        progress: called with each file when it is done or has failed; from the reading thread where it failed.

    Returns:
        The `PredictSummary`; files that could not be read are in `failed`.

    Raises:
        OutputError: `out` cannot be written: disk full, no permission.
    """
    failed: list[tuple[Path, str]] = []
    zooms: set[float] = set()
    full = 0
    stacks: list[Path] = []
    waiting: deque[tuple[Path, Image]] = deque()  # images that were read and are not predicted yet; batches bound it
    report = progress or (lambda path: None)

    def read() -> Iterator[Image]:
        for path in names:
            try:
                image = read_image(path, page)
            except (ImageError, OSError) as error:
                failed.append((path, str(error)))
                report(path)
            else:
                if page == "sharpest" and count_pages(path).stack > 1:
                    stacks.append(path)
                waiting.append((path, image))
                yield image

    # Where `out` lies among the images, the next run's search finds our own overlays.
    ours = (out / "overlays").absolute()
    # One entry a file, even where a path is given twice.
    names = name_outputs([path for path in paths if ours not in path.absolute().parents])
    with OutputFolder(
        out, classes=predictor.config.classes, score_threshold=score_threshold, labelme=labelme
    ) as folder:
        for prediction in predictor(read()):
            path, image = waiting.popleft()
            folder.add(path, names[path], image, prediction)
            zooms.update(view.zoom for view in predictor.views(*image.shape[:2]))
            full += prediction.complete_from >= max(score_threshold, 1e-9)
            report(path)
        if folder.done:
            folder.publish()
    return PredictSummary(folder.done, folder.crystals, failed, folder.edited, len(stacks), tuple(sorted(zooms)), full)


def predict_command(options: Predict) -> int:
    """`crystal predict`; the exit code is 1 if any image could not be read."""
    refuse_foreign(options.out)
    use_compilation_cache()
    predictor = Predictor(load_run(options.weights), zoom=parse_zoom(options.zoom))
    paths = find_images(options.images, lambda text: console.print(f"note: {text}", markup=False))
    with one_bar("predicting", len(paths)) as bar:
        done = itertools.count(1)
        summary = predict_folder(
            predictor,
            paths,
            options.out,
            score_threshold=options.score,
            labelme=options.labelme,
            page=options.page,
            progress=lambda path: bar(next(done), path.name),
        )
    seen = f", looked at zooms {listed(summary.zooms)}" if summary.done else ""
    console.print(f"{options.out}: {summary.crystals} crystals in {summary.done} images{seen}", markup=False)
    if summary.full:
        console.print(
            f"note: in {summary.full} image(s) a view filled all {predictor.config.detection.max_detections} slots for "
            "detections, so crystals may be missing; --zoom with higher ones spreads them over more views"
        )
    if summary.stacks:
        console.print(
            f"note: {summary.stacks} file(s) hold several pages, of which the sharpest was taken; --page first or "
            "--page NUMBER takes another"
        )
    for path in summary.edited:
        console.print(f"not replaced, since it was edited by hand: {printable(str(path), 500)}", markup=False)
    for _, reason in summary.failed:
        console.print(f"skipped: {printable(reason, 1000)}", markup=False)
    return 1 if summary.failed else 0
