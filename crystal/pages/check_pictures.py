"""The pictures of `check.html`: contact sheets, images with problems, single objects; one image at a time in memory."""

import html
from collections.abc import Iterable, Iterator

import numpy as np

from crystal.console import printable
from crystal.data.check import Checked
from crystal.data.dataset import Record
from crystal.data.preparation import read_recorded
from crystal.data.segmentation import draw_pixels, to_rle
from crystal.errors import CrystalError
from crystal.evaluation.outcomes import IGNORED, TRUTH
from crystal.pages.page import colour_keys, figure
from crystal.prediction.overlays import draw_outlines

SHEET, FAULTY = 24, 12  # pictures a split, and of images with problems
WIDTH = 440  # pixels of a picture: four abreast, sharp where one fills a telephone's screen
CHOSEN = (213, 94, 0)  # Okabe and Ito's vermillion: the object in question; the others as ground truth is everywhere

Titled = tuple[np.ndarray | None, str]


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the first `count` numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.arange(0)


def outlined(record: Record, chosen: set[int]) -> np.ndarray | None:
    """The whole image with all outlines, `chosen` instances apart; None where it cannot be read."""
    try:
        image = read_recorded(record)
    except CrystalError:
        return None
    masks = [to_rle(i.segmentation, record.height, record.width) for i in record.instances]
    colours = [CHOSEN if k in chosen else IGNORED if i.crowd else TRUTH for k, i in enumerate(record.instances)]
    return draw_outlines(image, masks, colours=colours, scale=WIDTH / record.width)


def close_up(record: Record, number: int) -> np.ndarray | None:
    """One object with its surroundings."""
    try:
        image = read_recorded(record)
    except CrystalError:
        return None
    instance = record.instances[number]
    x1, y1, x2, y2 = instance.box
    half = max(0.8 * max(x2 - x1, y2 - y1), 24.0)
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    left, right = int(max(cx - half, 0)), int(min(cx + half, record.width)) + 1
    top, bottom = int(max(cy - half, 0)), int(min(cy + half, record.height)) + 1
    crop = image[top:bottom, left:right]
    window = (left, top, left + crop.shape[1], top + crop.shape[0])
    patch = draw_pixels(instance.segmentation, record.height, record.width, window).astype(bool)
    return draw_outlines(crop, patch[None], colours=[CHOSEN], scale=WIDTH / crop.shape[1])


def figures(pictures: Iterable[Titled]) -> str:
    """A grid of pictures with their captions; those that could not be made are passed over."""
    return f"<div class='grid sheet'>{''.join(figure(p, text, text) for p, text in pictures if p is not None)}</div>"


def faulty(checked: Checked) -> str:
    """Images with errors or warnings, the objects concerned in another colour."""
    pictures: list[Titled] = []
    count = 0
    for name, split in checked.splits.items():
        concerned: dict[str, dict[int | None, str]] = {}
        for problem in checked.problems[name]:
            if problem.effect.severity != "note":
                concerned.setdefault(problem.file_name, {})[problem.annotation_id] = problem.text
        for record, readable in zip(split.records, checked.readable[name], strict=True):
            found = concerned.get(record.file_name)
            if not found or not readable:
                continue
            count += 1
            if len(pictures) < FAULTY:
                chosen = {k for k, i in enumerate(record.instances) if i.annotation_id in found}
                said = "; ".join(dict.fromkeys(found.values()))
                pictures.append((outlined(record, chosen), f"{name}: {printable(record.file_name)}: {said}"))
    if not pictures:
        return ""
    key = colour_keys(((CHOSEN, "concerned"), (TRUTH, "other objects"), (IGNORED, "crowd: ignored")))
    return (
        f"<h2>Images with errors or warnings</h2><p>{len(pictures)} of {count:,} whose image can be read. What was "
        f"left out is not drawn.</p><p>{key}</p>{figures(pictures)}"
    )


def sheets(checked: Checked) -> Iterator[str]:
    """A sample of every split, all outlines drawn."""
    yield f"<h2>Contact sheets</h2><p>{colour_keys(((TRUTH, 'objects'), (IGNORED, 'crowd: ignored')))}</p>"
    for name, split in checked.splits.items():
        fine = [record for record, readable in zip(split.records, checked.readable[name], strict=True) if readable]
        shown = [fine[k] for k in _spread(len(fine), SHEET)]
        pictures = (
            (outlined(r, set()), f"{printable(r.file_name)}: {sum(not i.crowd for i in r.instances)}") for r in shown
        )
        said = f"{len(shown)} of {len(fine):,} images, evenly spread" if len(shown) < len(fine) else "all images"
        yield f"<h3>{html.escape(name)}</h3><p>{said}; below each its name and number of objects.</p>"
        yield figures(pictures)
