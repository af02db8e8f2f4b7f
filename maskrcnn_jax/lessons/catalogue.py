"""Which lessons there are, in order: `lesson_07_roi_align.py` is number 7, and its title is the notebook's own."""

import importlib
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Lesson(NamedTuple):
    """One notebook: its number, its title as it lists itself, and its file."""

    number: int
    title: str
    path: Path

    @property
    def module(self) -> str:
        return f"maskrcnn_jax.lessons.{self.path.stem}"

    def load(self):
        """The notebook as a module: its `app`, and the functions at its top."""
        return importlib.import_module(self.module)


def lessons() -> list[Lesson]:
    """All lessons by number, without loading any of them."""
    found = []
    for path in sorted(FOLDER.glob("lesson_*.py")):
        title = re.search(r'app_title="\d+ (.+?)"', path.read_text(encoding="utf-8"))
        number = re.match(r"lesson_(\d+)_", path.name)
        if title is None or number is None:
            raise ValueError(f"{path}: a lesson is named lesson_<number>_<name>.py and has an app_title")
        found.append(Lesson(int(number[1]), title[1], path))
    return found
