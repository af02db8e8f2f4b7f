"""`crystal predict` and its page: all drops of a plate at a glance.

The page holds a small picture of each drop (800 pixels wide, some 30 kB), which serves as its card and, enlarged, until
the original is loaded in its place; so it works wherever it is sent, and shows every pixel where the originals are. All
outlines are drawn by the browser from their corners, so that they can be switched and counted anew.
"""

import hashlib
import itertools
import math
import os
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crystal.console import console, one_bar, printable
from crystal.data.images import find_images
from crystal.pages.page import write_page
from crystal.prediction.compilation_cache import use_compilation_cache
from crystal.prediction.measurements import equivalent_diameter
from crystal.prediction.options import Predict
from crystal.prediction.outputs import refuse_foreign
from crystal.prediction.package_weights import CRYSTAL
from crystal.prediction.predict import PredictSummary, predict_folder
from crystal.prediction.predictor import Predictor
from crystal.prediction.results import LEAST_SCORE, FoundCrystal, Result
from crystal.prediction.table_files import Page
from crystal.prediction.trained_model import load_run
from crystal.prediction.watch import check_watched, stopped_by_signals, watch_folder
from crystal.prediction.wells import Well
from crystal.prediction.zooms import listed, parse_zoom

MOST_ON_PAGE = 1000  # pictures, the best ranked
SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"}


def _link(source: str, out: Path) -> str:
    """The address of a picture as seen from the page."""
    try:
        path = os.path.relpath(source, out.absolute())
    except ValueError:  # on another drive of Windows
        return Path(source).as_uri()
    return quote(os.fsencode(path.replace(os.sep, "/")))


def _crystal(crystal: FoundCrystal) -> list[Any]:
    """In the order that `plate.js` reads."""
    return [
        math.floor(crystal.score * 1e4 + 1e-6) / 1e4,  # rounded down, so that none reaches the slider that does not
        round(crystal.length, 1),
        round(crystal.width, 1),
        crystal.area,
        round(equivalent_diameter(crystal.area), 1),
        int(bool(crystal.outside)),
        [round(crystal.shoot.x, 1), round(crystal.shoot.y, 1)],
        crystal.outline,
    ]


def _card(result: Result, well: Well | None, out: Path, um: float | None) -> dict[str, Any]:
    """What the page knows of one picture."""
    drop = result.drop
    point = drop.dispense if drop else None
    return {
        "name": printable(result.file_name),
        "key": hashlib.sha256(result.source.encode(errors="backslashreplace")).hexdigest()[:16],
        "well": [well.row, well.column, well.drop, well.name] if well else None,
        "size": [result.width, result.height],
        "um": um,
        "original": _link(result.source, out),
        "shown": Path(result.source).suffix.lower() in SHOWN_BY_BROWSERS,
        "overlay": quote(f"overlays/{result.stem}.jpg"),
        "crystals": [_crystal(c) for c in result.crystals],
        "drop": drop.outline if drop else [],
        "dispense": [round(point.x, 1), round(point.y, 1)] if point else None,
        "picture": result.picture,
    }


def write_plate_page(path: Path, page: Page, *, out: Path, title: str) -> None:
    """Write the page of a folder of results, replacing an earlier one when it is complete.

    Args:
        path: the file to write.
        page: the results, ranked.
        out: the folder in which the page will lie: links start there.
        title: what was predicted.

    Raises:
        OutputError: it cannot be written.
    """
    results = page.results
    cards = []
    for summary, well in page.ranked[:MOST_ON_PAGE]:
        result = results.result(summary.stem)
        cards.append(_card(result, well, out, results.calibration.of(result.height, result.width)))
    rows = max((card["well"][0] for card in cards if card["well"]), default=0)
    columns = max((card["well"][1] for card in cards if card["well"]), default=0)
    data = {
        "cards": cards,
        "plate": [16, 24] if rows >= 8 or columns > 12 else [8, 12],
        "score": results.score_threshold,
        "outside": results.outside,
    }
    write_page(
        path,
        "plate.html",
        title=title,
        total=len(page.ranked),
        cards=len(cards),
        wells=any(card["well"] for card in cards),
        any_outside=any(crystal[5] for card in cards for crystal in card["crystals"]),
        drops=any(card["drop"] for card in cards),
        least=min(LEAST_SCORE, results.score_threshold),
        score=results.score_threshold,
        um=any(card["um"] for card in cards),
        data=data,
    )


def _title(images: tuple[Path, ...]) -> str:
    return printable(images[0].resolve().name) + (f" and {len(images) - 1} more" if len(images) > 1 else "")


def _predict(options: Predict, predictor: Predictor, settings: dict[str, Any]) -> PredictSummary:
    paths = find_images(options.images, lambda text: console.print(f"note: {text}", markup=False))
    with one_bar("predicting", len(paths)) as bar:
        done = itertools.count(1)
        return predict_folder(
            predictor, paths, options.out, progress=lambda path: bar(next(done), path.name), **settings
        )


def _watch(options: Predict, predictor: Predictor, settings: dict[str, Any]) -> PredictSummary:
    same = {"weights": predictor.fingerprint(), "images": str(options.images[0].resolve())}
    same |= {"score": options.score, "zoom": options.zoom, "page": options.page, "outside": options.outside}
    same |= {"labelme": options.labelme}
    with stopped_by_signals() as stop:
        return watch_folder(
            predictor,
            options.images[0],
            options.out,
            stop=stop,
            settings=same,
            said=lambda text: console.print(text, markup=False),
            **settings,
        )


def _say(options: Predict, predictor: Predictor, summary: PredictSummary) -> None:
    """Print what came out."""
    say = partial(console.print, markup=False)
    seen = f", looked at zooms {listed(summary.zooms)}" if summary.done else ""
    say(f"{options.out}: {summary.crystals} crystals in {summary.done} images{seen}")
    if summary.done:
        say(f"{options.out / 'plate.html'}: all drops to look through")
    if summary.left_out:
        say(f"note: {summary.left_out} crystals outside the drop were not counted; --outside counts them")
    if summary.without_scale:
        say(
            f"note: {summary.without_scale} image(s) are not of the size of the pictures of --imager {options.imager}, "
            "so they have no micrometres; --um-per-pixel gives the scale of any"
        )
    if summary.full:
        say(
            f"note: in {summary.full} image(s) a view filled all {predictor.config.detection.max_detections} slots for "
            "detections, so crystals may be missing; --zoom with higher ones spreads them over more views"
        )
    if summary.stacks:
        say(
            f"note: {summary.stacks} file(s) hold several pages, of which the sharpest was taken; --page first or "
            "--page NUMBER takes another"
        )
    for path in summary.edited:
        say(f"not replaced, since it was edited by hand: {printable(str(path), 500)}")
    for _, reason in summary.failed:
        say(f"skipped: {printable(reason, 1000)}")


def predict_command(options: Predict) -> int:
    """`crystal predict`; the exit code is 1 if any image could not be read.

    Raises:
        CrystalError: the weights, the images or the folder of results cannot be used.
    """
    refuse_foreign(options.out)
    if options.watch:
        check_watched(options.images[0])
    use_compilation_cache()
    predictor = Predictor(load_run(options.weights or CRYSTAL), zoom=parse_zoom(options.zoom))
    title = _title(options.images)
    settings = {
        "score_threshold": options.score,
        "labelme": options.labelme,
        "page": options.page,
        "calibration": options.calibration,
        "outside": options.outside,
        "write_page": lambda path, page: write_plate_page(path, page, out=options.out, title=title),
    }
    summary = (_watch if options.watch else _predict)(options, predictor, settings)
    _say(options, predictor, summary)
    return 1 if summary.failed else 0
