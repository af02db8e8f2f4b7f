"""Which lessons there are, in order: `lesson_07_roi_align.py` is number 7; title and summary are the notebook's own."""

import importlib
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Lesson(NamedTuple):
    """One notebook: its number, its title, a summary in one sentence, and its file."""

    number: int
    title: str
    summary: str
    path: Path

    @property
    def module(self) -> str:
        return f"maskrcnn_jax.lessons.{self.path.stem}"

    @property
    def page(self) -> str:
        """Name of the exported page."""
        return f"{self.path.stem.removeprefix('lesson_')}.html"

    def load(self):
        """The notebook as a module: its `app`, and the functions at its top."""
        return importlib.import_module(self.module)


def lessons() -> list[Lesson]:
    """All lessons by number, without loading any of them."""
    found = []
    for path in sorted(FOLDER.glob("lesson_*.py")):
        text = path.read_text(encoding="utf-8")
        title, summary = re.search(r'app_title="\d+ (.+?)"', text), re.match(r'"""Lesson \d+: (.+?)"""', text)
        number = re.match(r"lesson_(\d+)_", path.name)
        if title is None or summary is None or number is None:
            raise ValueError(
                f"{path}: a lesson is named lesson_<number>_<name>.py, begins with a docstring 'Lesson <number>: "
                f"<summary>', and has an app_title"
            )
        found.append(Lesson(int(number[1]), title[1], summary[1], path))
    return found
