"""What stands beside the text of a lesson: how to begin, the call that makes a picture, and the diagrams."""

import ast
import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import marimo as mo
from matplotlib.figure import Figure

LONGEST = 4  # lines of a statement that is shown whole; of a longer one only the calls
SITE = "http://127.0.0.1:8000"  # of the pages in docs/, while `mkdocs serve -f .mkdocs.yml` runs
SERVED = " (the links work while <code>mkdocs serve -f .mkdocs.yml</code> runs)"
PAPERS = {
    "Crystals 2021": "https://doi.org/10.3390/cryst11020157",
    "R-CNN": "https://arxiv.org/abs/1311.2524",
    "Fast R-CNN": "https://arxiv.org/abs/1504.08083",
    "Faster R-CNN": "https://arxiv.org/abs/1506.01497",
    "Mask R-CNN": "https://arxiv.org/abs/1703.06870",
    "ResNet": "https://arxiv.org/abs/1512.03385",
    "FPN": "https://arxiv.org/abs/1612.03144",
    "SGDR": "https://arxiv.org/abs/1608.03983",
    "COCO": "https://arxiv.org/abs/1405.0312",
    "He et al. 2015": "https://arxiv.org/abs/1502.01852",
    "SAHI": "https://arxiv.org/abs/2202.06934",
}


def start(minutes: int, *, know: str, pages: Mapping[str, str], papers: Mapping[str, str]) -> mo.Html:
    """What a reader needs before the lesson, and where to read on.

    Args:
        minutes: to read it, without the exercises.
        know: what is taken for granted.
        pages: the component's pages of the site: title, and path without ".html".
        papers: name of the paper (one of PAPERS), and the place in it.
    """
    site = ", ".join(f"[{title}]({SITE}/{path}.html)" for title, path in pages.items())
    read = "; ".join(f"[{name}]({PAPERS[name]}), {place}" for name, place in papers.items())
    return mo.md(
        f"*{minutes} minutes to read, and the exercises.* **Know before:** {know}. **In the papers:** {read}. "
        f"**In the documentation:** {site}{SERVED}."
    )


def calls(where: Callable[..., Any], *names: str) -> mo.Html:
    """The statements of a function that call the functions of these names, as they are in its source.

    Raises:
        ValueError: one of them is not called there.
    """
    where = inspect.unwrap(where)
    source = textwrap.dedent(inspect.getsource(where))
    found, shown = set(), []
    for statement in _simple(ast.parse(source).body):
        inside = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and _name(node) in names]
        found |= {_name(node) for node in inside}
        result = getattr(statement, "value", None)
        whole = result if isinstance(statement, ast.Return) and result else statement
        pieces = [whole] if inside and (_lines(whole) <= LONGEST or result in inside) else inside
        shown += [_written(piece, source) for piece in pieces]
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{where.__name__} does not call {', '.join(missing)}")
    return mo.md("```python\n" + "\n".join(dict.fromkeys(shown)) + "\n```")


def diagram(figure: Figure, text: str) -> mo.Html:
    """A diagram with its text below; in a window too narrow for its letters it scrolls sideways."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    data, inches = base64.b64encode(buffer.getvalue()).decode("ascii"), figure.get_size_inches()[0]
    return mo.Html(
        f'<figure style="margin:0;overflow-x:auto"><img alt="{html.escape(text)}" style="display:block;max-width:none;'
        f'width:min({inches * 96:.0f}px,max(100%,520px))" src="data:image/svg+xml;base64,{data}">'
        f'<figcaption style="font-size:.85rem;padding-top:.3rem">{html.escape(text)}</figcaption></figure>'
    )


def _simple(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements in order, and of blocks and functions those inside."""
    simple = []
    for statement in body:
        inner = [part for name in ("body", "orelse") for part in getattr(statement, name, [])]
        simple += _simple(inner) if inner else [statement]
    return simple


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _lines(node: ast.stmt | ast.expr) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _written(node: ast.stmt | ast.expr, source: str) -> str:
    """As it is in the source, moved to the left margin."""
    first, *more = (ast.get_source_segment(source, node) or "").splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in more), default=0)
    margin = min(margin, node.col_offset)
    return "\n".join([first, *(line[margin:] for line in more)])
