"""A lesson as one HTML file that needs no network: pictures inside, formulas as MathML, which browsers render.

marimo's own static export loads code and fonts from the network. Here the notebook is run, and the outputs of its cells
are written as plain HTML: formulas as MathML, controls with their values, and of exercises the code that the reader
edits. Other elements of marimo are refused rather than left out; `show.py` avoids them.
"""

import ast
import contextlib
import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import marimo as mo
from latex2mathml.converter import convert
from pygments.formatters import HtmlFormatter

from maskrcnn_jax.lessons.catalogue import Lesson
from maskrcnn_jax.lessons.guide import SERVED, SITE

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; background: #fff; color: #1a1a1a;
       font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.paragraph { display: block; margin: .8rem 0; } p, ul, ol, .paragraph, h1, h2 { max-width: 46rem; }
pre { overflow-x: auto; padding: .7rem; background: #f6f6f6; font-size: .85rem; line-height: 1.4; }
code { font-size: .92em; } details { margin: .5rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border-bottom: 1px solid #ccc; text-align: left; }
math { font-family: "STIX Two Math", "Latin Modern Math", "Cambria Math", "DejaVu Math TeX Gyre", math; }
.sum { font-size: 1.5em; }
math[display=block] { max-width: 46rem; margin: .4rem 0; padding: .5rem 0; overflow-x: auto; overflow-y: hidden;
                      font-size: 1.1rem; } /* ink may leave the box of its letter, and scrolling would cut it off */
@media (max-width: 30rem) { math[display=block] { font-size: .85rem; } }
mfrac > :first-child { padding-bottom: .15em; } mfrac > :last-child { padding-top: .25em; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; margin: .5rem 0; }
.control { display: inline-block; margin: .2rem 1rem .2rem 0; padding: .1rem .5rem; background: #eef3f7; }
"""
INDEX = "index.html"
FORMULA = re.compile(r"<marimo-tex[^>]*>\|\|([\[(])(.*?)\|\|[\])]</marimo-tex>", re.DOTALL)
CONTROL = re.compile(r"<marimo-ui-element[^>]*><marimo-([\w-]+)(.*?)></marimo-\1></marimo-ui-element>", re.DOTALL)


def static_html(lesson: Lesson, beside: Sequence[Lesson] = ()) -> str:
    """The whole page of a lesson, run from top to bottom.

    Args:
        lesson: is loaded and run.
        beside: the lessons whose pages lie in the same folder, this one among them, in order; they are linked.

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
    note = "<p><em>A printed lesson: its controls do not work. The interactive lesson: <code>python -m "
    note += f"maskrcnn_jax.lessons {lesson.number}</code></em></p>"
    links = navigation(lesson, beside)
    colours = HtmlFormatter(style="default").get_style_defs(".codehilite")
    return _page(f"{lesson.number:02d} {lesson.title}", f"{links}{note}{body}{links}", STYLE + colours)


def navigation(lesson: Lesson, beside: Sequence[Lesson]) -> str:
    """Links to the lesson before, the index and the lesson after; empty without lessons beside it."""
    if not beside:
        return ""
    place = [other.number for other in beside].index(lesson.number)
    links = [f'<a href="{INDEX}">All lessons</a>']
    if place > 0:
        before = beside[place - 1]
        links.insert(0, f'<a rel="prev" href="{before.page}">← {before.number:02d} {html.escape(before.title)}</a>')
    if place + 1 < len(beside):
        after = beside[place + 1]
        links.append(f'<a rel="next" href="{after.page}">{after.number:02d} {html.escape(after.title)} →</a>')
    return f"<nav>{''.join(links)}</nav>"


def index_html(lessons: Sequence[Lesson]) -> str:
    """A page that links to the pages of the lessons in its folder."""
    rows = "".join(
        f'<tr><td>{lesson.number:02d}</td><td><a href="{lesson.page}">{html.escape(lesson.title)}</a></td>'
        f"<td>{html.escape(lesson.summary[0].upper() + lesson.summary[1:])}</td></tr>"
        for lesson in lessons
    )
    intro = (
        "<h1>Mask R-CNN, one component per lesson</h1><p>Each lesson takes four to six minutes to read and has two or "
        "three exercises. You need Python and NumPy, and to know what a convolution is. In these pages the controls do "
        "not work; open a lesson as a notebook with <code>python -m maskrcnn_jax.lessons NUMBER</code>.</p>"
    )
    return _page("Lessons", f"{intro}<table>{rows}</table>", STYLE)


def _page(title: str, body: str, style: str) -> str:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(title)}</title><style>{style}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


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
    """The number of words to read: without code, formulas, and the alternative texts of pictures."""
    body = page[page.index("<body>") :] if "<body>" in page else page
    text = re.sub(r"<(pre|math|details|style)\b.*?</\1>", " ", body, flags=re.DOTALL)
    return len(re.sub(r"<[^>]+>", " ", text).split())


def export(lesson: Lesson, folder: Path, beside: Sequence[Lesson] = ()) -> Path:
    """Write a lesson's page into `folder`, with links to the lessons `beside` it. See `write`.

    In a folder of the built site, as build/site/lessons, links to the documentation lead to its pages.
    """
    page = static_html(lesson, beside)
    if (folder.parent / "components").is_dir():
        page = page.replace(f"{SITE}/", "../").replace(SERVED, "")
    return write(page, folder / lesson.page)


def write(page: str, path: Path) -> Path:
    """Write a page; its folder is made if need be, and an earlier page is replaced when this one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path


def _mathml(found: re.Match) -> str:
    """MathML of a formula; where it has a line of its own, sums are large, also without a font for formulas."""
    if found[1] != "[":
        return convert(html.unescape(found[2]))
    formula = convert(html.unescape(found[2]), display="block")
    return formula.replace("<mo>&#x02211;", '<mo class="sum" largeop="false">&#x02211;')


def _stand(attributes: str) -> str:
    """The label and the value of a control."""
    values = {
        name: json.loads(html.unescape(html.unescape(text)).replace("\\u003c", "<").replace("\\u003e", ">"))
        for name, text in re.findall(r"data-(label|initial-value)='(.*?)'", attributes, re.DOTALL)
    }
    label = re.sub(r"<[^>]+>", "", values.get("label") or "")
    value = values.get("initial-value")
    value = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f'<span class="control">{html.escape(label)}: <b>{html.escape(value)}</b></span>'


def _attempts(cell: ast.FunctionDef) -> str:
    """The functions of a cell that the reader completes."""
    return "\n\n".join(ast.unparse(node) for node in cell.body if isinstance(node, ast.FunctionDef))
