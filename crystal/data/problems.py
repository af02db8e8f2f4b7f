"""What can be wrong with a dataset, how bad it is, and what training does about it.

An `Effect` comes from the code that leaves out or corrects (`dataset.py`) or that calls what training calls
(`check_image.py`), so `crystal check` reports what happens. Errors are what `crystal train` fails on, immediately,
during training or at its end, and what makes its measurements worthless; warnings are trained on; notes are no fault.
"""

from enum import Enum
from typing import Literal, NamedTuple

from crystal.console import brief, printable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Effect(Enum):
    """What training does about a problem: (severity, in words that follow a semicolon)."""

    REFUSED = "error", "training refuses the dataset"
    NOT_MEASURED = "warning", "training goes on without measuring on it"
    STOPS = "error", "training stops when it comes to this image"
    LEFT_OUT = "warning", "left out; the rest is trained on, and the command says so at its end"
    SEEN_BEFORE = "error", "both are used: what is measured on one is no measure of what was learnt from the other"
    OTHER_CLASSES = (
        "warning",
        "classes meet by name; objects of one that only this file has are not measured",
    )
    CLASSES_ALIKE = "error", "each is a class of its own, and what is found of one counts as false for the other"
    REST_USED = "warning", "a part was left out; the rest is used"
    CLIPPED = "warning", "what lies inside is used"
    MENDED = "warning", "the outline's extent is used"
    AN_OBJECT = "warning", "taken for a single object"
    PARITY = "warning", "used; where it covers itself twice is a hole"
    ALL_USED = "warning", "each is used, as an object of its own"
    TWICE_AN_EPOCH = "warning", "shown as two images"
    SMALLEST_LEFT_OUT = "warning", "the largest are used; the places of the others are ignored"
    PLACE_IGNORED = "warning", "its place is ignored: neither object nor background"
    EMPTY_MASK = "warning", "its box is used, with an empty mask"
    UNREAD = "warning", "not used; evaluation counts the outlined pixels instead"
    SHARPEST = "note", "the sharpest page is used"
    BACKGROUND = "note", "used, all of it background"
    IGNORED = "note", "a region to ignore: neither object nor background"

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        severity: Severity = self.value[0]
        return severity

    @property
    def words(self) -> str:
        """What training does."""
        return self.value[1]


class Problem(NamedTuple):
    """One thing in a dataset that is wrong, or worth knowing.

    Attributes:
        file_name: of the image, or of the JSON file where no image is concerned.
        annotation_id: as in the file; None where it has none or the whole image is concerned.
        text: what is wrong, the same words for the same fault.
        effect: what training does.
        detail: the numbers of this case, to follow the text.
    """

    file_name: str
    annotation_id: int | None
    text: str
    effect: Effect
    detail: str = ""

    def __str__(self) -> str:
        which = "" if self.annotation_id is None else f"annotation {brief(self.annotation_id)}: "
        return f"{printable(self.file_name)}: {which}{self.text}{self.detail}; {self.effect.words}"
