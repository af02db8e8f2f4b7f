"""What people read in a terminal: progress as bars, or as lines in a log file, and names made safe to print."""

import reprlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0
LONGEST = 120  # characters of a name that are printed
console = Console(highlight=False, soft_wrap=True, markup=False)  # brackets in a name are no markup

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 40
_brief.maxlevel, _brief.maxlist, _brief.maxdict = 2, 3, 3


class Bars:
    """Several stages side by side: `with Bars() as bars: bar = bars.add("rendering", 100); bar(done, note)`.

    Time left comes from the pace so far. Where the output is no terminal, each bar prints a line every few seconds.
    """

    def __init__(self) -> None:
        self._rich = Progress(
            TextColumn("{task.description:<16}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )

    def __enter__(self) -> "Bars":
        if console.is_terminal:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if console.is_terminal:
            self._rich.stop()

    def add(self, name: str, total: int) -> "Bar":
        """A new bar for `total` pieces of work."""
        return Bar(self._rich, name, total)


class Bar:
    """One stage; call it with the number of pieces done, and a word on how it goes."""

    def __init__(self, rich: Progress, name: str, total: int) -> None:
        self._rich, self._name, self._total = rich, printable(name), total
        self._task = rich.add_task(self._name, total=total, note="")
        self._start = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._finished = False
        if not console.is_terminal:
            console.print(f"{self._name}: 0/{total}", markup=False)

    def __call__(self, done: int, note: str = "") -> None:
        """Show `done` of the total. Cheap enough to call for every piece."""
        note = printable(note)
        self._rich.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if console.is_terminal or self._finished or (now - self._last < SECONDS_BETWEEN_LINES and done < self._total):
            return
        if done and self._first is None:
            self._first = (now, done)
        self._last, self._finished = now, done >= self._total
        console.print(
            f"{self._name}: {done}/{self._total}, {now - self._start:.0f} s{self._left(now, done)} {note}".rstrip(),
            markup=False,
        )

    def _left(self, now: float, done: int) -> str:
        if self._first is None or done >= self._total or done <= self._first[1]:
            return ""
        since, begun = self._first
        return f", {(now - since) / (done - begun) * (self._total - done):.0f} s left"


@contextmanager
def one_bar(name: str, total: int) -> Iterator[Bar]:
    """A single stage."""
    with Bars() as bars:
        yield bars.add(name, total)


def warn(sentence: str) -> None:
    """Print a warning; nothing where the sentence is empty."""
    if sentence:
        console.print(f"warning: {sentence}")


def printable(text: str, most: int = LONGEST) -> str:
    r"""Text out of a file, safe to print: no control characters or lone surrogates, and cut in the middle where it has
    more than `most` characters.

    >>> printable("a\x1b[2J.png")
    'a\\x1b[2J.png'
    """
    if len(text) > most:
        text = f"{text[: most // 2]}...{text[-most // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def brief(value: Any) -> str:
    """Any value out of a JSON file in a few characters, however long or deeply nested it is."""
    return printable(_brief.repr(value))
