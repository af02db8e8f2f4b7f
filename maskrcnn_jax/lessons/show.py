"""How the lessons show pictures in a grid, the package's own source, boxes over an image, and tables.

A picture is one small matplotlib figure with its caption as text below. Pictures are shown side by side in a wide
window and one below the other in a narrow one, so that letters keep their size. Colours are Okabe and Ito's, which
remain distinct with common kinds of colour blindness; lines that differ in colour also differ in dash.
"""

import base64
import html
import inspect
import io
import threading
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import marimo as mo
import numpy as np
from jaxtyping import Float, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, SKY, PINK = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
GREY = "#666666"
DOTS_PER_INCH = 130  # twice what a figure of 4 inches takes on a screen: sharp, and still drawn in 60 ms


def canvas(width: float = 4.2, height: float = 3.3, *, frame: bool = True) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with room for axis labels, or without a `frame` for images."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    if frame:
        figure.subplots_adjust(0.68 / width, 0.5 / height, 1 - 0.12 / width, 1 - 0.12 / height)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    else:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
    return figure, axes


def photo(image: Num[np.ndarray, "h w ..."], *, width: float = 4.2, **options: Any) -> tuple[Figure, Axes]:
    """An image (RGB or grey) that fills its figure. The axes are in continuous pixels: pixel i covers [i, i + 1)."""
    rows, columns = image.shape[:2]
    figure, axes = canvas(width, width * rows / columns, frame=False)
    if image.ndim == 2:
        options = {"cmap": "gray"} | ({"vmin": 0, "vmax": 255} if image.dtype == np.uint8 else {}) | options
    axes.imshow(image, extent=(0, columns, rows, 0), aspect="auto", **options)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    return figure, axes


def boxes_over(
    axes: Axes, boxes: Float[np.ndarray, "n 4"], colour: str, *, width: float = 1.6, dash: Any = "-", halo: bool = True
) -> None:
    """Outlines of boxes, with a dark halo so that they are visible on bright and on dark ground."""
    boxes = np.asarray(boxes)
    corners = list(boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]])
    if halo:
        axes.add_collection(PolyCollection(corners, facecolors="none", edgecolors="#101010", linewidths=width + 1.4))
    axes.add_collection(
        PolyCollection(corners, facecolors="none", edgecolors=colour, linewidths=width, linestyles=[dash])
    )


def numbers(axes: Axes, values: Float[np.ndarray, "h w"], *, form: str = "{:.2f}", size: float = 8) -> None:
    """A matrix as coloured cells with their numbers."""
    values = np.asarray(values, float)
    axes.imshow(values, cmap="cividis", aspect="auto")
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > middle else "white"
        axes.text(column, row, form.format(value), ha="center", va="center", fontsize=size, color=ink)


def panels(pictures: Mapping[str, Figure | UInt8[np.ndarray, "h w *c"]]) -> mo.Html:
    """Figures or plain images by their captions, in a grid that wraps; the captions are read by screen readers, too."""
    cells = []
    for caption, picture in pictures.items():
        if isinstance(picture, np.ndarray):  # five times as fast as through matplotlib
            ordered = picture[..., ::-1] if picture.ndim == 3 else picture
            encoded, inches = cv2.imencode(".png", ordered)[1].tobytes(), 4.2
        else:
            buffer = io.BytesIO()
            picture.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
            encoded, inches = buffer.getvalue(), picture.get_size_inches()[0]
        data, text = base64.b64encode(encoded).decode("ascii"), html.escape(caption)
        cells.append(
            f'<figure style="margin:0;max-width:{inches * 100:.0f}px">'
            f'<img alt="{text}" style="width:100%;height:auto;display:block" src="data:image/png;base64,{data}">'
            f'<figcaption style="font-size:.85rem;padding-top:.3rem">{text}</figcaption></figure>'
        )
    columns = "repeat(auto-fill,minmax(min(280px,100%),1fr))"  # equally wide, in an incomplete last row as well
    return mo.Html(
        f'<div class="panels" style="display:grid;grid-template-columns:{columns};gap:1rem">{"".join(cells)}</div>'
    )


def while_you_read(*calls: Callable[[], Any]) -> None:
    """In a live notebook: make these calls in the background, so that their programs are compiled when needed."""
    if mo.running_in_notebook():
        threading.Thread(target=lambda: [call() for call in calls], daemon=True).start()


def source(*things: Callable[..., Any] | type) -> mo.Html:
    """The package's own source of functions and classes, folded up: what is shown is what runs."""
    parts = []
    for thing in things:
        thing = inspect.unwrap(thing)
        text = mo.md(f"````python\n{inspect.getsource(thing)}````").text
        name = f"{thing.__module__}.{thing.__qualname__}"
        parts.append(f"<details><summary>The code: <code>{html.escape(name)}</code></summary>{text}</details>")
    return mo.Html("".join(parts))


def table(header: list[str], rows: list[list[Any]]) -> mo.Html:
    """A small table that scrolls sideways where it is too wide."""
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    text = mo.md("\n".join("| " + " | ".join(line) + " |" for line in lines)).text
    return mo.Html(f'<div style="overflow-x:auto">{text}</div>')
