"""`crystal inspect` and its page: one image's way through the network, in the network's own order.

The sections are written by `inspect_features.py` (pixels to proposals), `inspect_heads.py` (proposals to crystals) and
`inspect_training.py` (what training would have asked).
"""

import html
import time
from pathlib import Path

from crystal.console import console, printable
from crystal.data.images import read_image
from crystal.errors import CrystalError
from crystal.files import explained_writing
from crystal.inspection.inspector import Inspection, Inspector
from crystal.inspection.options import Inspect
from crystal.inspection.targets import NoGroundTruth, TrainingTargets, find_truth, supervise
from crystal.pages.inspect_features import FIRST_HALF, counted
from crystal.pages.inspect_heads import SECOND_HALF
from crystal.pages.inspect_training import with_truth, without_truth
from crystal.pages.page import table, write_page
from crystal.prediction.trained_model import load_run

STYLE = """
figure img { border: 1px solid #ddd; box-sizing: border-box; }
.maps, .tiles { grid-template-columns: repeat(auto-fill, minmax(min(100%, 184px), 1fr)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
section { margin-top: 2.4rem; } h2 { margin-top: 0; }
.look { border-left: .3rem solid #0072b2; padding: .1rem 0 .1rem .8rem; } .scroll { margin: .8rem 0; }
nav ol { columns: 18rem; padding-left: 1.9rem; } .key i { border-width: 1px; } p.keys { line-height: 1.9; }
details { margin: .8rem 0; } summary { cursor: pointer; } code { overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } figure, tr, h2, h3, .look { break-inside: avoid; }
h2, h3, p.keys { break-after: avoid; } nav { display: none; } .scroll { overflow: visible; }
body { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.grid { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); } }
"""


class InspectError(CrystalError, ValueError):
    """A page that cannot be made; the message says why."""


def _seconds(value: float) -> str:
    return f"{value:.2f}\N{NO-BREAK SPACE}s" if value >= 1 else f"{1000 * value:.1f}\N{NO-BREAK SPACE}ms"


def _overview(inspection: Inspection) -> str:
    rows = [
        (t.name, t.result, _seconds(t.seconds), "" if t.compiling is None else _seconds(t.compiling))
        for t in inspection.times
    ]
    total = sum(t.seconds for t in inspection.times)
    rows.append(("together", "", _seconds(total), _seconds(sum(t.compiling or 0 for t in inspection.times))))
    return (
        "<h2>The way at a glance</h2><p>Each stage was compiled and run by itself, the time is that of its second run. "
        "Shapes are rows x columns x channels of maps, and number x coordinates of boxes; of fixed shape, so some of "
        "the slots may be empty.</p>" + table(("stage", "what comes out", "time", "compiling, once"), rows)
    )


def write_inspection(
    path: Path, image: Path, weights: Path, inspection: Inspection, training: TrainingTargets | NoGroundTruth
) -> None:
    """Write the page, replacing an earlier one when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    name = printable(image.name)
    title = f"{name} on its way through Mask R-CNN"
    sections = (*FIRST_HALF, *SECOND_HALF)
    parts = [(key, heading, "".join(section(inspection))) for key, heading, section in sections]
    told = without_truth(training) if isinstance(training, NoGroundTruth) else "".join(with_truth(inspection, training))
    parts.append(("training", "What training would ask", told))
    contents = "".join(f"<li><a href='#{key}'>{html.escape(heading)}</a></li>" for key, heading, _ in parts)
    written = "".join(
        f"<section id={key}><h2>{number}. {html.escape(heading)}</h2>{body}</section>"
        for number, (key, heading, body) in enumerate(parts, 1)
    )
    found = int(inspection.detections.valid.sum())
    network = (
        f"<p>The network of <code>{html.escape(printable(str(weights)))}</code>, at {inspection.place.size[1]} x "
        f"{inspection.place.size[0]} pixels, finds {counted(found, 'object')} at a score of "
        f"{inspection.config.detection.score_threshold:g} or more. Every picture and number on this page is of this very "
        "run. Boxes are [x1, y1, x2, y2] in pixels of the letterboxed image.</p>"
    )
    body = f"<h1>{html.escape(title)}</h1>{network}<nav><ol>{contents}</ol></nav>{_overview(inspection)}{written}"
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, title, body, style=STYLE)


def inspect_command(options: Inspect) -> int:
    """`crystal inspect`: follow, hold against the ground truth where there is one, write the page.

    Raises:
        CrystalError: the image, the run, the ground truth that was named or the page's place cannot be used.
    """
    image, out = options.image, options.out
    if out.suffix.lower() not in (".html", ".htm"):  # a slip must not cost the image or its annotations
        raise InspectError(f"--out {out}: the page needs a name that ends in .html")
    with explained_writing(out):  # rather now than after a minute
        out.parent.mkdir(parents=True, exist_ok=True)
    size = read_image(image).shape[:2]
    model, clahe = load_run(options.weights)
    known = find_truth(image, (size[0], size[1]), options.truth, model.config.classes)
    console.print(f"{image}: ground truth: {known.reason if isinstance(known, NoGroundTruth) else known.source}")
    start = time.perf_counter()
    inspection, forward = Inspector(model, clahe=clahe).follow(image)
    training = known if isinstance(known, NoGroundTruth) else supervise(inspection, forward, known)
    write_inspection(out, image, options.weights, inspection, training)
    found = int(inspection.detections.valid.sum())
    console.print(f"{out}: {found} detections; {time.perf_counter() - start:.0f} s")
    return 0
