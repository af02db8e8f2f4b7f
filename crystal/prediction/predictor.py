"""From images of any size to outlined instances at their original size (`crystal predict`).

Each image is prepared as in training (CLAHE at its own resolution, then the letterbox), batches of one fixed shape go
through the compiled network, and boxes and masks come back in the pixels of the original. A batch is prepared in a
thread while the network works on the one before, so three batches of originals are in memory at most, however long the
list is.

Masks are pasted one instance's box at a time and become run lengths at once. A stack [n, height, width] would take
900 MB for 100 instances in a 9-megapixel micrograph; the run lengths take some 100 kB.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from crystal.console import console, one_bar
from crystal.data.images import ImageError, find_images, prepare, read_image
from crystal.data.outlines import encode_patch
from crystal.files import name_outputs
from crystal.prediction.outputs import OutputFolder
from crystal.training.run_folder import load_run
from maskrcnn_jax.image.letterbox import Letterbox
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.masks import paste_patch
from maskrcnn_jax.structures import Detections

Image = UInt8[np.ndarray, "h w 3"]


class Prediction(NamedTuple):
    """The instances of one image, best first.

    Attributes:
        boxes: `[x1, y1, x2, y2]` in continuous pixels of the original image, inside it.
        scores: in [0, 1].
        classes: index into the config's `classes`; never 0, the background.
        rles: a mask each, as compressed COCO RLE (`size` = height, width of the original; `counts` bytes).
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    rles: list[Any]


class PredictSummary(NamedTuple):
    """What became of a batch of files.

    Attributes:
        done: how many images were predicted.
        crystals: how many instances in all reached the score that is drawn and listed.
        failed: (file, reason) of each image that could not be read; the others were done all the same. The reason is a
            sentence that names the file and the remedy.
        kept: LabelMe files that were left alone, because somebody had edited them since they were predicted.
    """

    done: int
    crystals: int
    failed: list[tuple[Path, str]]
    kept: list[Path]


def to_original(detections: Detections, box: Letterbox) -> Prediction:
    """Bring one image's detections back to its original pixels.

    Args:
        detections: of one image (no leading b), as NumPy arrays, boxes in letterbox pixels.
        box: where the image lay in its letterbox.

    Returns:
        The valid detections that cover at least one pixel.
    """
    height, width = box.original
    valid = np.asarray(detections.valid)
    boxes = np.clip(box.to_original(np.asarray(detections.boxes)[valid]), 0, np.tile([width, height], 2))
    rles, seen = [], np.zeros(len(boxes), bool)
    for i, (own, mask) in enumerate(zip(boxes, np.asarray(detections.masks)[valid], strict=True)):
        patch, top, left = paste_patch(mask, own, height=height, width=width)
        if patch.any():
            seen[i] = True
            rles.append(encode_patch(patch, top, left, height=height, width=width))
    scores, classes = np.asarray(detections.scores)[valid], np.asarray(detections.classes)[valid]
    return Prediction(boxes[seen], scores[seen], classes[seen], rles)


@partial(jax.jit, static_argnums=0)
def _detect(graph: nnx.GraphDef, state: nnx.State, images: jax.Array, windows: jax.Array) -> Detections:
    """The weights are an argument: as constants they would be compiled into the program, and stored twice."""
    return nnx.merge(graph, state).detect(images, windows)


class Predictor:
    """A model ready to be called on images: `predictor(images)` yields a `Prediction` an image, in order.

    Compiles at the first call, for `batch_size` images of the config's size, once for all models of one config; the
    last batch is padded.

    Args:
        model: of `MaskRCNNConfig.image.size`.
        clahe: whether the model was trained on images after CLAHE.
        batch_size: images a forward pass.
    """

    def __init__(self, model: MaskRCNN, *, clahe: bool, batch_size: int = 4):
        self.config = model.config
        self.clahe = clahe
        self.batch_size = batch_size
        self._graph, self._state = nnx.split(model)

    def _prepare(self, images: Iterator[Image]) -> tuple[np.ndarray, np.ndarray, list[Letterbox]] | None:
        """The next batch: images [b, h, w, 3], windows [b, 4] and the letterboxes; None at the end."""
        size = self.config.image.size
        ready = [prepare(i, size=size, clahe=self.clahe) for i in itertools.islice(images, self.batch_size)]
        if not ready:
            return None
        batch = np.zeros((self.batch_size, *size, 3), np.uint8)
        windows = np.tile(np.array([0, 0, size[1], size[0]], np.float32), (self.batch_size, 1))
        for slot, (pixels, box) in enumerate(ready):
            batch[slot], windows[slot] = pixels, box.window
        return batch, windows, [box for _, box in ready]

    def __call__(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predict images one after the other.

        Args:
            images: uint8 RGB of any size. Consumed in another thread, one batch ahead of the results.

        Yields:
            A `Prediction` for each, with every detection over the config's own score threshold.
        """
        source = iter(images)
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
            following = ahead.submit(self._prepare, source)
            while (batch := following.result()) is not None:
                following = ahead.submit(self._prepare, source)
                found = jax.device_get(_detect(self._graph, self._state, *batch[:2]))
                for slot, box in enumerate(batch[2]):
                    yield to_original(jax.tree.map(lambda values, slot=slot: values[slot], found), box)


def predict_folder(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    score_threshold: float = 0.5,
    labelme: bool = False,
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
        progress: called with each file when it is done or has failed; from the reading thread where it failed.

    Returns:
        The `PredictSummary`; files that could not be read are in `failed`.

    Raises:
        OutputError: `out` cannot be written: disk full, no permission.
    """
    failed: list[tuple[Path, str]] = []
    waiting: deque[tuple[Path, Image]] = deque()  # images that were read and are not predicted yet; batches bound it
    report = progress or (lambda path: None)

    def read() -> Iterator[Image]:
        for path in names:
            try:
                image = read_image(path)
            except (ImageError, OSError) as error:
                failed.append((path, str(error)))
                report(path)
            else:
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
            report(path)
        if folder.done:
            folder.publish()
    return PredictSummary(folder.done, folder.crystals, failed, folder.kept)


def predict_command(weights: Path, images: Sequence[Path], out: Path, *, score_threshold: float, labelme: bool) -> int:
    """`crystal predict`; the exit code is 1 if any image could not be read."""
    model, clahe = load_run(weights)
    paths = find_images(images)
    with one_bar("predicting", len(paths)) as bar:
        done = itertools.count(1)
        summary = predict_folder(
            Predictor(model, clahe=clahe),
            paths,
            out,
            score_threshold=score_threshold,
            labelme=labelme,
            progress=lambda path: bar(next(done), path.name),
        )
    console.print(f"{out}: {summary.crystals} crystals in {summary.done} images")
    for path in summary.kept:
        console.print(f"left as edited by hand: {path}")
    for _, reason in summary.failed:
        console.print(f"skipped: {reason}")
    return 1 if summary.failed else 0
