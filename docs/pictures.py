"""Pictures of README and docs: `python docs/pictures.py` from a finished demo, `--photo FILE` from a photograph."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import tyro

from crystal.data.dataset import load_split
from crystal.data.images import apply_clahe, read_image
from crystal.evaluation.assessment import truth_of
from crystal.pages.pictures import WIDTH, enlarged
from crystal.prediction.overlays import contact_sheet, draw_outlines, labelled_mask
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predict import predict_folder
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run

SCORE = 0.5
TILE = 480  # pixels of a drop in the contact sheet
PHOTO = 1000  # pixels of a photograph's width


def _save(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def real_drop(photo: Path, out: Path) -> None:
    """What `crystal predict` draws on a photograph, with the weights of the package."""
    with tempfile.TemporaryDirectory() as folder:
        predict_folder(Predictor(load_run(CRYSTAL), zoom="auto"), [photo], Path(folder) / "out")
        (overlay,) = (Path(folder) / "out" / "overlays").iterdir()
        picture = read_image(overlay)
    scale = PHOTO / picture.shape[1]
    _save(out / "real_drop.jpg", cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def main(
    demo: Path = Path("runs/demo"), out: Path = Path("docs/pictures"), first: int = 0, photo: Path | None = None
) -> None:
    """Outlines predicted on six held-out drops, one drop before and after CLAHE, one beside its labelled mask.

    Args:
        demo: a finished `crystal demo`.
        out: the folder for the pictures.
        first: the first of the six drops, counted among those with three crystals or more.
        photo: of a real drop; only its outlines are drawn then.
    """
    out.mkdir(parents=True, exist_ok=True)
    if photo is not None:
        real_drop(photo, out)
        return
    records = [r for r in load_split(demo / "data", "val").records if len(r.instances) >= 3][first : first + 6]
    images = [read_image(record.path) for record in records]
    model = load_run(demo / "table1" / "runs" / "0-clahe")
    tiles = []
    for image, found in zip(images, Predictor(model)(images), strict=True):
        shown = [rle for rle, score in zip(found.rles, found.scores, strict=True) if score >= SCORE]
        tiles.append(draw_outlines(image, shown, scale=TILE / image.shape[1]))
    _save(out / "outlines.jpg", contact_sheet(tiles, [""] * len(tiles), 3, TILE))
    _save(out / "clahe_before.jpg", enlarged(images[0]))
    _save(out / "clahe_after.jpg", enlarged(apply_clahe(images[0])))
    _save(out / "labelled_mask.jpg", enlarged(labelled_mask(images[0], truth_of(records[0])["masks"]), 2 * WIDTH))


if __name__ == "__main__":
    tyro.cli(main)
