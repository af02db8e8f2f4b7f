"""Exercises: a reader completes a function, and a check reports the first case in which it is wrong."""

import html
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import marimo as mo
import numpy as np


class Verdict(NamedTuple):
    """Whether an attempt is right, and a sentence about it."""

    passed: bool
    message: str


def grade(
    attempt: Callable[..., Any],
    cases: Sequence[tuple[tuple[Any, ...], Any]],
    *,
    hint: str,
    tolerance: float = 1e-4,
) -> Verdict:
    """Call `attempt` with the arguments of each case, (arguments, expected), and compare.

    The message describes the first case that fails: the call, the result, the expected result, and the `hint`. An
    attempt that returns None has not been started. Exceptions of the attempt are reported, not raised.
    """
    name = attempt.__name__
    for arguments, expected in cases:
        call = f"{name}({', '.join(_brief(a) for a in arguments)})"
        try:
            given = attempt(*arguments)
        except Exception as error:  # a reader's code may raise anything
            return Verdict(False, f"{call} raises {type(error).__name__}: {error}. {hint}")
        if given is None:
            return Verdict(False, f"Not started: write the body of {name} in the cell above.")
        shapes = ""
        try:
            if np.shape(given) != np.shape(expected):
                shapes = f" (shapes {np.shape(given)} and {np.shape(expected)})"
            numbers = np.asarray(given, float), np.asarray(expected, float)
            equal = not shapes and np.allclose(*numbers, atol=tolerance, rtol=tolerance)
        except (TypeError, ValueError):
            equal = False
        if not equal:
            return Verdict(False, f"{call} gives {_brief(given)}, expected {_brief(expected)}{shapes}. {hint}")
    return Verdict(True, f"Right: {name} passes all {len(cases)} cases.")


def show(verdict: Verdict) -> mo.Html:
    """The verdict as a box with a tick or a pencil."""
    colour, sign = ("#009e73", "✔") if verdict.passed else ("#d55e00", "✎")
    return mo.Html(
        f'<div class="verdict" style="border-left:4px solid {colour};padding:.4rem .8rem;overflow-wrap:anywhere">'
        f"{sign} {html.escape(verdict.message)}</div>"
    )


def solution(solve: Callable[..., Any], why: str) -> mo.Html:
    """A right solution and the reasoning behind it, folded up.

    Args:
        solve: is named solve_<name>, and shown as my_<name>, the function that the reader completes.
        why: in Markdown.
    """
    code = inspect.getsource(solve)
    code = re.sub(r"\bsolve_", "my_", code[code.index("def ") :])
    text = mo.md(f"{why}\n\n````python\n{code}````").text
    return mo.Html(f"<details><summary>Solution</summary>{text}</details>")


def _brief(value: Any) -> str:
    if isinstance(value, str | bool | int) or value is None:
        return repr(value)
    try:
        text = np.array2string(np.asarray(value), precision=4, separator=", ", threshold=40, suppress_small=True)
    except (TypeError, ValueError):
        text = repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
