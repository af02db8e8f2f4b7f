"""Everything that is wrong with a dataset, found before training.

Reads the files by the functions that training uses (`dataset.py`, `preparation.py`), then looks further
(`check_image.py`): images in two splits, outlines that cross themselves, objects outlined twice. Which objects the
anchors reach is in `anchor_coverage.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from crystal.console import brief, printable
from crystal.data.check_image import CheckedImage, check_image
from crystal.data.coco_file import DatasetError, find_splits
from crystal.data.dataset import Record, Split, alike, nothing_to_learn, read_split
from crystal.data.problems import SEVERITIES, Effect, Problem, Severity

THREADS = 2  # OpenCV decodes without the interpreter's lock
TOGETHER = 64  # images handed to the threads at once
MEASURED = ("val", "test")  # splits that training does without


class Row(NamedTuple):
    """A line of the table: one kind of problem in one file."""

    split: str
    file_name: str
    severity: Severity
    text: str
    training: str


class CheckedDataset(NamedTuple):
    """A dataset and all the problems found in it.

    Attributes:
        splits: by name, without those whose file cannot be read at all.
        readable: for each split, which of its records' images can be read.
        problems: by split, and within it as found.
    """

    splits: dict[str, Split]
    readable: dict[str, list[bool]]
    problems: dict[str, list[Problem]]

    def count(self, severity: Severity) -> int:
        """The number of problems of a severity."""
        return sum(p.effect.severity == severity for problems in self.problems.values() for p in problems)


def _check_images(records: Sequence[Record], slots: int, progress: Callable[[int], None]) -> list[CheckedImage]:
    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for at in range(0, len(records), TOGETHER):  # all at once would queue a million results
            for one in pool.map(lambda record: check_image(record, slots=slots), records[at : at + TOGETHER]):
                found.append(one)
                progress(len(found))
    return found


def _repeated(contents: dict[bytes, list[tuple[str, str]]]) -> Iterable[tuple[str, Problem]]:
    """(split, problem) for each image whose pixels occurred before, in its own split or another."""
    for places in contents.values():
        first_split, first_name = places[0]
        for split, name in places[1:]:
            text, effect = "the same picture is in this split before", Effect.TWICE_AN_EPOCH
            if split != first_split:
                text, effect = "the same picture is in another split", Effect.SEEN_BEFORE
            yield split, Problem(name, None, text, effect, f" ({first_split}: {printable(first_name)})")


def check(
    dataset: Path,
    *,
    slots: int,
    crowds_as_objects: bool = False,
    start: Callable[[str, int], Callable[[int], None]] = lambda name, total: lambda done: None,
) -> CheckedDataset:
    """Check every file of every split.

    Args:
        dataset: a folder with splits, or one COCO file.
        slots: objects of an image that training takes at most.
        crowds_as_objects: as in training.
        start: called with each split and the number of its images; returns what is called with the number checked.

    Raises:
        DatasetError: there is no such dataset, or no COCO file in it.
    """
    splits: dict[str, Split] = {}
    readable: dict[str, list[bool]] = {}
    problems: dict[str, list[Problem]] = {}
    contents: dict[bytes, list[tuple[str, str]]] = {}
    for name, source in find_splits(dataset).items():
        try:
            split = read_split(source, name, crowds_as_objects=crowds_as_objects)
        except DatasetError as error:
            text = printable(str(error).removeprefix(f"{source}: "))
            problems[name] = [Problem(source.name, None, text, Effect.REFUSED)]
            continue
        splits[name] = split
        found = _check_images(split.records, slots, start(name, len(split.records)))
        readable[name] = [one.content is not None for one in found]
        problems[name] = [*split.problems, *(p for one in found for p in one.problems)]
        problems[name] += _split_problems(name, split, next(iter(splits.values())))
        reason = nothing_to_learn(split) if split.records and name not in MEASURED else None
        problems[name] += [Problem(source.name, None, reason, Effect.REFUSED)] if reason else []
        for record, one in zip(split.records, found, strict=True):
            if one.content:
                contents.setdefault(one.content, []).append((name, record.file_name))
    for name, problem in _repeated({content: places for content, places in contents.items() if len(places) > 1}):
        problems[name].append(problem)
    return CheckedDataset(splits, readable, problems)


def _split_problems(name: str, split: Split, first: Split) -> list[Problem]:
    """Problems of the file as a whole."""
    found = []
    if not split.records and not split.problems:
        effect = Effect.NOT_MEASURED if name in MEASURED else Effect.REFUSED
        found.append(Problem(split.source.name, None, "lists no images; add some", effect))
    if {name for _, name in split.categories} != {name for _, name in first.categories}:
        text = "its categories are not those of "
        found.append(Problem(split.source.name, None, text + first.source.name, Effect.OTHER_CLASSES))
    same = alike(name for _, name in split.categories)
    if same:
        text = (
            f"the categories {', '.join(map(brief, same))} differ only in upper and lower case: join them in the file, "
        )
        text += f"or convert again with --labels {printable(same[0])}={printable(same[-1])}"
        found.append(Problem(split.source.name, None, text, Effect.CLASSES_ALIKE))
    ids = Counter(i.annotation_id for r in split.records for i in r.instances if i.annotation_id)
    repeated = [number for number, count in ids.items() if count > 1]
    if repeated:
        detail = f" ({brief(repeated[0])}{f' and {len(repeated) - 1} more' if len(repeated) > 1 else ''})"
        found.append(Problem(split.source.name, None, "annotations share an id", Effect.ALL_USED, detail))
    return found


def rows_of(checked: CheckedDataset) -> list[Row]:
    """The table: problems of one kind in one file together; files with errors first, then by split and name."""
    grouped: dict[tuple[str, str, str, Effect], list[Problem]] = {}
    for split, problems in checked.problems.items():
        for problem in problems:
            grouped.setdefault((split, problem.file_name, problem.text, problem.effect), []).append(problem)
    worst: dict[tuple[str, str], int] = {}
    for split, name, _, effect in grouped:
        rank = SEVERITIES.index(effect.severity)
        worst[split, name] = min(rank, worst.get((split, name), rank))
    order = list(checked.problems)
    rows = [
        (
            (worst[split, name], order.index(split), name, SEVERITIES.index(effect.severity)),
            Row(split, printable(name), effect.severity, _one_line(same), effect.words),
        )
        for (split, name, _, effect), same in grouped.items()
    ]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _one_line(same: list[Problem]) -> str:
    """Problems of one kind in one file in one line: annotations 3, 4, 5 and 6 more, and what is wrong with them."""
    numbers = [brief(p.annotation_id) for p in same if p.annotation_id is not None]
    details = [p.detail.strip(" ()") for p in same if p.detail]
    text = same[0].text + (f" ({'; '.join(details[:3])}{'; ...' if len(details) > 3 else ''})" if details else "")
    if not numbers:
        return text if len(same) == 1 else f"{text} ({len(same)} times)"
    more = f" and {len(numbers) - 6} more" if len(numbers) > 6 else ""
    return f"annotation{'s' * (len(numbers) > 1)} {', '.join(numbers[:6])}{more}: {text}"
