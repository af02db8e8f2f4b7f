"""Pages as single HTML files that can be mailed: style, pictures (JPEG) and charts (SVG) are inside.

The HTML and all prose are jinja2 templates in `templates/`, which extend `base.html` and share `macros.html`; jinja2
escapes every value, so names of files and classes are text whatever they contain.
"""

import base64
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined

from crystal.console import printable
from crystal.evaluation import outcomes
from crystal.files import write_atomically
from crystal.pages.pictures import LEVEL_COLOURS
from crystal.prediction import overlays

COLOURS = {name: getattr(outcomes, name.upper()) for name in ("truth", "found", "false", "missed", "ignored")}
COLOURS |= {"concerned": overlays.VERMILLION, "orange": overlays.ORANGE, "sky": overlays.SKY}
COLOURS["levels"] = [(colour, f"P{level}") for level, colour in LEVEL_COLOURS.items()]


def picture(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An RGB image as a data URI (JPEG), for the `src` of an `<img>`."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # for thin lines
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85, *full_colour])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def number(value: float | None, form: str = ",") -> str:
    """A number by Python's format specification; a dash for None and NaN.

    >>> number(1200), number(0.5, ".2f"), number(None)
    ('1,200', '0.50', '–')
    """
    return "–" if value is None or math.isnan(value) else format(value, form)


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(0, "box"), counted(1, "mask"), counted(1200, "mask")
    ('no boxes', '1 mask', '1,200 masks')
    """
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"1 {noun}" if count == 1 else f"{count:,} {plural}" if count else f"no {plural}"


ENVIRONMENT = Environment(
    loader=PackageLoader("crystal.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {"picture": picture, "number": number, "counted": counted, "printable": printable}
ENVIRONMENT.globals |= {"colours": COLOURS, "match_iou": outcomes.MATCH_IOU}


def write_page(path: Path, template: str, **context: Any) -> None:
    """Write the page that a template makes of its context, replacing an earlier page when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    write_atomically(path, ENVIRONMENT.get_template(template).render(context) + "\n")
