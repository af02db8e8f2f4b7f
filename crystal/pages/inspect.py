"""`crystal inspect` and its page: one image's way through the network, stage by stage."""

import time
from pathlib import Path

from crystal.console import console
from crystal.data.images import read_image
from crystal.errors import CrystalError
from crystal.files import explained_writing
from crystal.inspection.inspector import Inspection, Inspector
from crystal.inspection.options import Inspect
from crystal.inspection.targets import NoGroundTruth, TrainingTargets, find_truth, supervise
from crystal.pages.inspect_sections import SECTIONS, training
from crystal.pages.page import write_page
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.trained_model import load_run


class InspectError(CrystalError, ValueError):
    """A page that cannot be made; the message says why."""


def write_inspection(
    path: Path, image: Path, weights: Path, inspection: Inspection, targets: TrainingTargets | NoGroundTruth
) -> None:
    """Write the page, replacing an earlier one when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path,
        "inspect.html",
        name=image.name,
        weights=str(weights),
        config=inspection.config,
        inspection=inspection,
        targets=targets,
        training=None if isinstance(targets, NoGroundTruth) else training(inspection, targets),
        **{section.__name__: section(inspection) for section in SECTIONS},
    )


def inspect_command(options: Inspect) -> int:
    """`crystal inspect`: run the network, compare with the ground truth where there is one, write the page.

    Raises:
        CrystalError: the image, the run, the ground truth that was named or the page's place cannot be used.
    """
    image, out = options.image, options.out
    if out.suffix.lower() not in (".html", ".htm"):  # a slip must not cost the image or its annotations
        raise InspectError(f"--out {out}: the page needs a name that ends in .html")
    with explained_writing(out):  # rather now than after a minute
        out.parent.mkdir(parents=True, exist_ok=True)
    use_compilation_cache()
    size = read_image(image).shape[:2]
    model = load_run(options.weights)
    known = find_truth(image, (size[0], size[1]), options.truth, model.config.classes)
    console.print(f"{image}: ground truth: {known.reason if isinstance(known, NoGroundTruth) else known.source}")
    start = time.perf_counter()
    inspection, forward = Inspector(model).follow(image)
    targets = known if isinstance(known, NoGroundTruth) else supervise(inspection, forward, known)
    write_inspection(out, image, options.weights, inspection, targets)
    found = int(inspection.detections.valid.sum())
    console.print(f"{out}: {found} detections; {time.perf_counter() - start:.0f} s")
    return 0
