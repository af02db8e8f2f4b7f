"""`crystal inspect` and its page: the way of images through the network, stage by stage."""

import time
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from crystal.console import console, printable
from crystal.data.images import read_image
from crystal.errors import CrystalError
from crystal.files import explained_writing
from crystal.inspection.inspector import Inspection, Inspector
from crystal.inspection.options import Inspect
from crystal.inspection.targets import NoGroundTruth, TrainingTargets, find_truth, supervise
from crystal.inspection.views import FollowedViews, follow_views
from crystal.pages.inspect_sections import SECTIONS, training
from crystal.pages.inspect_views import views
from crystal.pages.page import ENVIRONMENT, write_page
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.context import LEAST, SURE
from crystal.prediction.merging import INSIDE_WEIGHT
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predictor import Predictor
from crystal.prediction.trained_model import load_run
from crystal.prediction.zooms import UNTRAINED, parse_zoom, trust


class InspectError(CrystalError, ValueError):
    """A page that cannot be made; the message says why."""


class Part(NamedTuple):
    """One image's part of the page: its place, what the overview says of it, and its HTML."""

    anchor: str
    name: str
    sides: tuple[int, int]
    crystals: int
    from_tiles: int
    html: Markup


def image_part(
    number: int,
    image: Path,
    weights: Path,
    inspection: Inspection,
    followed: FollowedViews,
    targets: TrainingTargets | NoGroundTruth,
    *,
    score: float = 0.5,
) -> Part:
    """Draw one image's part of the page.

    Args:
        number: of the image on the page, from 1 on.
        image: the file.
        weights: the run or checkpoint.
        inspection: its way through the network.
        followed: what was found in its views.
        targets: those of training, or why there are none.
        score: the least of a result, in [0, 1].
    """
    height, width = inspection.image.shape[:2]
    config = inspection.config
    shown = views(inspection.image, followed, size=config.image.size, classes=config.classes, score=score)
    known = None
    if not isinstance(targets, NoGroundTruth):
        known = training(inspection, targets, followed.prediction, score=score)
    html = ENVIRONMENT.get_template("inspect/one.html").render(
        prefix=f"{number}-",
        weights=str(weights),
        config=config,
        inspection=inspection,
        targets=targets,
        training=known,
        views=shown,
        untrained=[
            zoom for zoom in sorted({view.zoom for view in followed.views}) if trust(zoom, config.image.zooms) < 1
        ],
        trust=UNTRAINED,
        inside=INSIDE_WEIGHT,
        context=(SURE, LEAST),
        score=score,
        **{section.__name__: section(inspection) for section in SECTIONS},
    )
    sides, counts = (width, height), (shown["crystals"], shown["from_tiles"])
    return Part(f"image-{number}", image.name, sides, *counts, Markup(html))


def write_inspections(path: Path, parts: list[Part], *, score: float = 0.5) -> None:
    """Write the page, replacing an earlier one when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, "inspect.html", parts=parts, score=score)


def inspect_command(options: Inspect) -> int:
    """`crystal inspect`: run the network, compare with the ground truth where there is one, write the page.

    Of several images those that cannot be read are left out and listed; the exit code is then 1.

    Raises:
        CrystalError: the only image, the run, the ground truth that was named or the page's place cannot be used.
    """
    out = options.out
    if out.suffix.lower() not in (".html", ".htm"):  # a slip must not cost the image or its annotations
        raise InspectError(f"--out {out}: the page needs a name that ends in .html")
    with explained_writing(out):  # rather now than after a minute
        out.parent.mkdir(parents=True, exist_ok=True)
    use_compilation_cache()
    if len(options.images) == 1:
        read_image(options.images[0])
    weights = options.weights or CRYSTAL
    model = load_run(weights)
    inspector, predictor = Inspector(model), Predictor(model, zoom=parse_zoom(options.zoom))
    parts: list[Part] = []
    skipped: list[str] = []
    for image in options.images:
        start = time.perf_counter()
        try:
            pixels = read_image(image)
            known = find_truth(image, (pixels.shape[0], pixels.shape[1]), options.truth, model.config.classes)
        except CrystalError as error:
            if len(options.images) == 1:
                raise
            skipped.append(str(error))
            continue
        reason = known.reason if isinstance(known, NoGroundTruth) else known.source
        console.print(f"{image}: ground truth: {reason}", markup=False)
        inspection, forward = inspector.follow(image)
        targets = known if isinstance(known, NoGroundTruth) else supervise(inspection, forward, known)
        followed = follow_views(predictor, pixels)
        number = len(parts) + 1
        parts.append(image_part(number, image, weights, inspection, followed, targets, score=options.score))
        console.print(
            f"{image}: {parts[-1].crystals} crystals in {len(followed.views)} views; "
            f"{time.perf_counter() - start:.0f} s",
            markup=False,
        )
    if not parts:
        raise InspectError(f"no image could be read: {'; '.join(skipped)}")
    write_inspections(out, parts, score=options.score)
    console.print(f"{out}: the page", markup=False)
    for reason in skipped:
        console.print(f"skipped: {printable(reason, 1000)}", markup=False)
    return 1 if skipped else 0
