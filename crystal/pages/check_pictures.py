"""The pictures of `check.html`: contact sheets, images with problems, single objects; one image at a time in memory."""

from collections.abc import Iterator

import numpy as np

from crystal.console import printable
from crystal.data.check import CheckedDataset
from crystal.data.dataset import Record
from crystal.data.preparation import read_record_image
from crystal.data.segmentation import draw_pixels, to_rle
from crystal.errors import CrystalError
from crystal.evaluation.outcomes import IGNORED, TRUTH
from crystal.pages.pictures import Image, surroundings
from crystal.prediction.overlays import VERMILLION, draw_outlines

SHEET, FAULTY = 24, 12  # pictures of a split, and of images with problems
WIDTH = 440  # pixels of a picture: four abreast, sharp where one fills a telephone's screen
CONCERNED = VERMILLION


def outlined(record: Record, concerned: set[int]) -> Image | None:
    """The whole image with all outlines, those of the `concerned` instances in a colour of their own; None where it
    cannot be read.
    """
    try:
        image = read_record_image(record)
    except CrystalError:
        return None
    masks = [to_rle(i.segmentation, record.height, record.width) for i in record.instances]
    colours = [CONCERNED if k in concerned else IGNORED if i.crowd else TRUTH for k, i in enumerate(record.instances)]
    return draw_outlines(image, masks, colours=colours, scale=WIDTH / record.width)


def close_up(record: Record, number: int) -> Image | None:
    """One object with its surroundings; None where the image cannot be read."""
    try:
        image = read_record_image(record)
    except CrystalError:
        return None
    instance = record.instances[number]
    window = surroundings(np.array(instance.box), record.height, record.width, least=24.0)
    left, top, right, bottom = window
    patch = draw_pixels(instance.segmentation, record.height, record.width, window).astype(bool)
    return draw_outlines(image[top:bottom, left:right], patch[None], colours=[CONCERNED], scale=WIDTH / (right - left))


def faulty(checked: CheckedDataset) -> tuple[list[tuple[Image, str]], int]:
    """The first images with errors or warnings, each with its caption, and how many there are."""
    pictures = []
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
            chosen = {k for k, i in enumerate(record.instances) if i.annotation_id in found}
            if len(pictures) < FAULTY and (image := outlined(record, chosen)) is not None:
                texts = "; ".join(dict.fromkeys(found.values()))
                pictures.append((image, f"{name}: {printable(record.file_name)}: {texts}"))
    return pictures, count


def contact_sheet(records: list[Record]) -> Iterator[tuple[Image, str]]:
    """At most SHEET of the images, evenly spread, with all outlines; below each its name and number of objects."""
    spread = np.linspace(0, max(len(records) - 1, 0), min(len(records), SHEET)).round().astype(int)
    for record in (records[k] for k in np.unique(spread)):
        image = outlined(record, set())
        if image is not None:
            yield image, f"{printable(record.file_name)}: {sum(not i.crowd for i in record.instances)}"
