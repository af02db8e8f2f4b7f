"""A lesson as one HTML file that needs nothing else: pictures inside, formulas as MathML, which browsers render.

marimo's own static export loads the page's code and its fonts from elsewhere. So the notebook is run here, and what its
cells show is written down: formulas become MathML, controls say where they stand, and of an exercise the code that the
reader would edit is shown. What a lesson uses must be in plain HTML besides formulas and controls (`show.py` sees to
that); anything else of marimo's is refused rather than left out.
"""

import ast
import contextlib
import html
import json
import os
import re
from pathlib import Path

import marimo as mo
from latex2mathml.converter import convert
from pygments.formatters import HtmlFormatter

from maskrcnn_jax.lessons.catalogue import Lesson

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; background: #fff; color: #1a1a1a;
       font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.paragraph { display: block; margin: .8rem 0; } p, ul, ol, .paragraph, h1, h2 { max-width: 46rem; }
pre { overflow-x: auto; padding: .7rem; background: #f6f6f6; font-size: .85rem; line-height: 1.4; }
code { font-size: .92em; } details { margin: .5rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border-bottom: 1px solid #ccc; text-align: left; }
math { font-family: "STIX Two Math", "Latin Modern Math", "Cambria Math", math; }
math[display=block] { max-width: 46rem; margin: .4rem 0; padding: .5rem 0; overflow-x: auto; overflow-y: hidden;
                      font-size: 1.1rem; } /* ink may leave the box of its letter, and scrolling would cut it off */
@media (max-width: 30rem) { math[display=block] { font-size: .85rem; } }
mfrac > :first-child { padding-bottom: .15em; } mfrac > :last-child { padding-top: .25em; }
.control { display: inline-block; margin: .2rem 1rem .2rem 0; padding: .1rem .5rem; background: #eef3f7; }
"""
FORMULA = re.compile(r"<marimo-tex[^>]*>\|\|([\[(])(.*?)\|\|[\])]</marimo-tex>", re.DOTALL)
CONTROL = re.compile(r"<marimo-ui-element[^>]*><marimo-([\w-]+)(.*?)></marimo-\1></marimo-ui-element>", re.DOTALL)


def static_html(lesson: Lesson) -> str:
    """The whole page of a lesson, run from top to bottom.

    Raises:
        ValueError: a cell shows something that has no static form.
    """
    outputs, _ = lesson.load().app.run()
    cells = [
        node
        for node in ast.parse(lesson.path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and any("app." in ast.unparse(d) for d in node.decorator_list)
    ]
    parts = []
    for cell, output in zip(cells, outputs, strict=True):
        visible = not any("hide_code=True" in ast.unparse(d) for d in cell.decorator_list)
        if visible:
            parts.append(mo.md(f"````python\n{_attempts(cell)}\n````").text)
        if output is not None:
            parts.append(mo.as_html(output).text)
    body = plain("".join(parts))
    note = "<p><em>A printed lesson: its controls stand still. Live: <code>python -m maskrcnn_jax.lessons "
    note += f"{lesson.number}</code></em></p>"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{lesson.number:02d} {html.escape(lesson.title)}</title>"
    colours = HtmlFormatter(style="default").get_style_defs(".codehilite")
    head += f"<style>{STYLE}{colours}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{note}{body}</body></html>\n'


def plain(live: str) -> str:
    """Live HTML with formulas as MathML and controls as text.

    Raises:
        ValueError: another element of marimo's is in it.
    """
    page = FORMULA.sub(_mathml, live)
    page = CONTROL.sub(lambda found: _stand(found[2]), page)
    if left := re.search(r"<marimo-[\w-]+", page):
        raise ValueError(f"{left[0]}> has no static form: show it with plain HTML (lessons/show.py)")
    return page


def visible_words(page: str) -> int:
    """How many words a reader has before them: without code, formulas, and the alternative texts of pictures."""
    body = page[page.index("<body>") :] if "<body>" in page else page
    text = re.sub(r"<(pre|math|details|style)\b.*?</\1>", " ", body, flags=re.DOTALL)
    return len(re.sub(r"<[^>]+>", " ", text).split())


def export(lesson: Lesson, folder: Path) -> Path:
    """Write a lesson's page into `folder`, which is made if need be; an earlier page is replaced when this is whole."""
    page = static_html(lesson)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{lesson.path.stem.removeprefix('lesson_')}.html"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path


def _mathml(found: re.Match) -> str:
    return convert(html.unescape(found[2]), display="block" if found[1] == "[" else "inline")


def _stand(attributes: str) -> str:
    """What a control is called and where it stands."""
    values = {
        name: json.loads(html.unescape(html.unescape(text)).replace("\\u003c", "<").replace("\\u003e", ">"))
        for name, text in re.findall(r"data-(label|initial-value)='(.*?)'", attributes, re.DOTALL)
    }
    label = re.sub(r"<[^>]+>", "", values.get("label") or "")
    value = values.get("initial-value")
    value = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f'<span class="control">{html.escape(label)}: <b>{html.escape(value)}</b></span>'


def _attempts(cell: ast.FunctionDef) -> str:
    """The functions that a cell defines for the reader to fill in."""
    return "\n\n".join(ast.unparse(node) for node in cell.body if isinstance(node, ast.FunctionDef))
