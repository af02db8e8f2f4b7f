"""A self-contained page: one HTML file with its style, pictures as JPEG and charts as SVG inside, so it can be mailed.

The layout is a grid that wraps: side by side on a wide screen, one below the other on a telephone.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from crystal.files import write_atomically

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1180px; padding: 1rem; background: #fff; color: #1a1a1a;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } .paper { color: #666; font-style: italic; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; } figure img, .grid svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; color: #333; padding-top: .3rem; }
.key { margin-right: 1em; white-space: nowrap; }
.key i { display: inline-block; width: 1.6em; height: .55em; margin-right: .3em; border: 2px solid #222; }
@media (max-width: 560px) { th, td { padding: .3rem .3rem; font-size: .82rem; } }
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, paper_columns: int = 0) -> str:
    """Rows of text; the last `paper_columns` are somebody else's numbers, and look it."""

    def row(cells: Sequence[str], tag: str) -> str:
        ours = len(cells) - paper_columns
        return "".join(
            f"<{tag}{' class=paper' if i >= ours else ''}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<div class=scroll><table><tr>{row(header, 'th')}</tr>{body}</table></div>"


def figure(picture: np.ndarray, caption: str, alt: str) -> str:
    """A picture (uint8 RGB) inside the page."""
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    source = f'<img alt="{html.escape(alt)}" loading="lazy" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{source}<figcaption>{html.escape(caption)}</figcaption></figure>"


def colour_keys(keys: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """What each outline's colour (RGB) means."""
    return " ".join(f"<span class=key><i style='background:rgb{colour}'></i>{text}</span>" for colour, text in keys)


def write_page(path: Path, title: str, body: str, *, style: str = "") -> None:
    """Write the page, replacing an earlier one when it is complete; `style`: more CSS.

    Raises:
        OutputError: it cannot be written.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    write_atomically(path, page)
