"""The files of `crystal predict`, which replace those of an earlier run together, once all are complete.

    DIR/overlays/<name>.jpg    the image with outlines, each with its number in the CSV, if few also with its score
    DIR/crystals.csv           a row a crystal, in pixels of the original image (columns below)
    DIR/predictions.json       a COCO dict: images, categories, annotations = all detections with score, zoom and RLE
    DIR/labelme/<name>.json    outlines to correct by hand, if asked for: `labelme IMAGES --output DIR/labelme`

Everything is written into a hidden folder inside DIR and renamed when complete, so a full disk, an error or Ctrl-C
leaves what an earlier run wrote, and nothing half-written. Annotations are written one by one, so memory does not grow
with the number of images.
"""

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from jaxtyping import UInt8

from crystal.data.coco_file import coco_annotation
from crystal.data.labelme.export import is_edited, labelme_document, labelme_shapes
from crystal.files import OutputError, OutputName, explained_writing, refuse_replacing
from crystal.prediction.measurements import measure
from crystal.prediction.overlays import draw_outlines
from crystal.prediction.predictor import Prediction

# Boxes and centres are continuous pixels (pixel i covers [i, i + 1)). The centre is the mask's centre of mass; length
# and width are the sides of the smallest rectangle, at any angle, that holds the mask. The zoom is that of the view in
# which the crystal was found, 1 being the whole image.
COLUMNS = (
    *("image", "crystal", "class", "score", "x1", "y1", "x2", "y2"),
    *("area_px", "centre_x", "centre_y", "length_px", "width_px", "zoom"),
)
# Colour at full resolution, so that thin lines keep theirs.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


INFO = "Instances predicted by crystal, all scores"


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds what `crystal predict` would replace and did not write.

    Raises:
        OutputError: somebody else's overlays, tables or predictions are there.
    """
    names = [name for name in ("overlays", "crystals.csv", "predictions.json") if (out / name).exists()]
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

    Raises:
        OutputError: from every method, where a file cannot be written.
    """

    def __init__(self, out: Path, *, classes: Sequence[tuple[int, str]], score_threshold: float, labelme: bool):
        self.out = out
        self.classes = tuple(classes)
        self.score_threshold = score_threshold
        self.labelme = labelme
        self.done = self.crystals = 0
        self.edited: list[Path] = []
        self._images: list[dict[str, Any]] = []
        self._annotations = 0

    def __enter__(self) -> Self:
        refuse_foreign(self.out)
        with explained_writing(self.out), contextlib.ExitStack() as undo:
            self.out.mkdir(parents=True, exist_ok=True)
            self._new = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.out))
            undo.callback(shutil.rmtree, self._new, ignore_errors=True)
            for folder in ("overlays", "labelme") if self.labelme else ("overlays",):
                (self._new / folder).mkdir()
            table = self._new / "crystals.csv"
            self._json = undo.enter_context(open(self._new / "predictions.json", "w", encoding="utf-8"))
            self._csv = undo.enter_context(open(table, "w", encoding="utf-8", errors="backslashreplace", newline=""))
            self._rows = csv.writer(self._csv, lineterminator="\n")
            self._rows.writerow(COLUMNS)
            info = {"description": INFO}
            categories = [{"id": i, "name": name, "supercategory": ""} for i, name in self.classes[1:]]
            self._json.write(
                f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"annotations": ['
            )
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        # Closing flushes, which fails on a full disk; that was reported already, or the run is being given up.
        with contextlib.suppress(OSError):
            self._undo.close()

    def add(self, path: Path, name: OutputName, image: UInt8[np.ndarray, "h w 3"], prediction: Prediction) -> None:
        """Write one image's results under its name."""
        image_id = len(self._images) + 1
        height, width = image.shape[:2]
        self._images.append({"id": image_id, "file_name": name.file_name, "height": height, "width": width})
        shown = np.flatnonzero(prediction.scores >= self.score_threshold)
        picture = self._new / "overlays" / f"{name.stem}.jpg"
        with explained_writing(picture):
            self._add_annotations(image_id, prediction)
            self._add_rows(name.file_name, prediction, shown)
            numbers = [str(n) for n, _ in enumerate(shown, 1)]
            rles, scores = [prediction.rles[i] for i in shown], prediction.scores[shown]
            drawn = draw_outlines(image, rles, labels=numbers, scores=scores)
            _, encoded = cv2.imencode(".jpg", drawn[..., ::-1], JPEG)
            picture.write_bytes(encoded.tobytes())
            if self.labelme:
                self._add_labelme(path, name, (height, width), prediction, shown)
        self.done += 1
        self.crystals += len(shown)

    def _add_annotations(self, image_id: int, prediction: Prediction) -> None:
        for i, rle in enumerate(prediction.rles):
            x1, y1, x2, y2 = (round(float(v), 3) for v in prediction.boxes[i])
            annotation = coco_annotation(rle, self.classes[prediction.classes[i]][0])
            annotation["bbox"] = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]  # the network's, not that of the pixels
            annotation |= {"id": self._annotations + 1, "image_id": image_id}
            annotation |= {"score": round(float(prediction.scores[i]), 6), "zoom": float(prediction.zooms[i])}
            self._json.write(("," if self._annotations else "") + "\n" + json.dumps(annotation))
            self._annotations += 1

    def _add_rows(self, file_name: str, prediction: Prediction, shown: np.ndarray) -> None:
        for number, i in enumerate(shown, 1):
            area, *lengths = measure(prediction.rles[i])
            box = [f"{v:.2f}" for v in prediction.boxes[i]]
            name = self.classes[prediction.classes[i]][1]
            score = f"{prediction.scores[i]:.4f}"
            numbers = *box, area, *(f"{v:.2f}" for v in lengths), f"{prediction.zooms[i]:g}"
            self._rows.writerow([file_name, number, name, score, *numbers])

    def _add_labelme(
        self, path: Path, name: OutputName, size: tuple[int, int], prediction: Prediction, shown: np.ndarray
    ) -> None:
        shapes = labelme_shapes(
            [prediction.rles[i] for i in shown],
            [self.classes[prediction.classes[i]][1] for i in shown],
            [float(prediction.scores[i]) for i in shown],
        )
        place = self.out / "labelme" / f"{name.stem}.json"
        content = labelme_document(shapes, image=path, place=place, height=size[0], width=size[1])
        (self._new / "labelme" / f"{name.stem}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def publish(self) -> None:
        """Complete the files and put them in the place of an earlier run's."""
        with explained_writing(self.out):
            self._json.write(f'],\n"images": {json.dumps(self._images)}}}\n')
            self._json.close()
            self._csv.close()
            overlays, old = self.out / "overlays", self._new / "old"
            if overlays.exists():
                os.replace(overlays, old)
            os.replace(self._new / "overlays", overlays)
            if self.labelme:
                (self.out / "labelme").mkdir(exist_ok=True)
                for new in sorted((self._new / "labelme").iterdir()):
                    place = self.out / "labelme" / new.name
                    if is_edited(place):
                        self.edited.append(place)
                    else:
                        os.replace(new, place)
            for name in ("predictions.json", "crystals.csv"):
                os.replace(self._new / name, self.out / name)
