"""`crystal convert`: folders of LabelMe files become a dataset to train on.

    DATASET/{train,val}.json               COCO's format, ids from 1, the same categories in both
    DATASET/<split>/images/<name>.jpg      the image: the file itself where it is an upright JPEG or PNG, else a PNG
    DATASET/<split>/labelme/<name>_json/   what LabelMe 3.16.2 wrote for an image, and a mask an instance (folder.py)

Files of no use are skipped and listed. Nothing outside DATASET is written, whatever the files say: names come from the
JSON files' own, with anything but letters, digits and a few signs replaced.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from crystal.console import console, one_bar
from crystal.data.images import encode_png
from crystal.data.journal import Entry, Journal, state_of
from crystal.data.labelme.coco import convert_file, explain, find_labelme
from crystal.data.labelme.document import LabelmeError, Problem, printable
from crystal.data.labelme.folder import write_folder
from crystal.data.labelme.labels import LabelRules
from crystal.data.options import Convert
from crystal.data.pool import in_processes
from crystal.data.splits import DROP_IN_NAME, Dealt, SplitError, compile_pattern, deal
from crystal.files import OutputError, distinct_stem, explained_writing


class Task(NamedTuple):
    """One LabelMe file to convert into `new/<name>`."""

    source: Path
    name: str
    rules: LabelRules
    new: Path


class Conversion(NamedTuple):
    """What became of the files: entries a split, what was left out, how many images were taken over from before."""

    splits: dict[str, list[Entry]]
    problems: list[Problem]
    taken_over: int


def _write_files(task: Task) -> Entry:
    converted = convert_file(task.source, task.rules)
    files = state_of(converted.files)
    if converted.encoded is None:
        converted = converted._replace(encoded=encode_png(converted.pixels))
    partial, place = task.new / f".{task.name}", task.new / task.name
    with explained_writing(partial):
        for leftover in (partial, place):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        (partial / f"image{converted.suffix}").write_bytes(converted.encoded or b"")
        write_folder(partial / "labelme", converted)
        os.replace(partial, place)
    height, width = converted.pixels.shape[:2]
    return Entry(
        source=str(task.source),
        name=task.name,
        suffix=converted.suffix,
        rules=dict(task.rules.renamed),
        files=files,
        content=converted.content,
        height=height,
        width=width,
        annotations=converted.annotations,
        problems=[[problem.shape, problem.text] for problem in converted.problems],
    )


def convert_one(task: Task) -> Entry | Problem:
    """Convert a file, in a worker process. Raises OutputError only: whatever is wrong with the file is a `Problem`."""
    try:
        return _write_files(task)
    except OutputError:
        raise
    except Exception as error:
        return explain(task.source, error)


def _name_in(source: Path, folders: Sequence[Path]) -> str:
    """The source below the folder it was found in, without suffix: what tells its drop or plate."""
    for folder in folders:
        with contextlib.suppress(ValueError):
            return source.relative_to(folder).with_suffix("").as_posix()
    return source.stem


def convert_dataset(
    folders: Sequence[Path],
    out: Path,
    *,
    rules: LabelRules,
    shares: Mapping[str, float],
    seed: int = 0,
    group: str = DROP_IN_NAME,
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
) -> Conversion:
    """Convert LabelMe files into the dataset folder `out`; the same call again goes on where it stopped.

    Args:
        folders: LabelMe files, or folders searched at any depth.
        out: new, empty, or an earlier conversion of the same folders: then only what has changed is done.
        rules: which labels are renamed or dropped.
        shares: split -> share of the images; see `splits.deal`.
        seed: of the deal.
        group: regular expression that finds the drop or plate in a file's name below its folder.
        workers: processes.
        progress: called as progress(done, total).

    Returns:
        The `Conversion`; nothing is published if no file can be used.

    Raises:
        LabelmeError: no JSON file at all.
        SplitError, JournalError, OutputError: bad settings, a folder of something else, a full disk.
    """
    pattern = compile_pattern(group)
    deal([], shares, seed=seed)  # complains of the shares before an hour's work
    sources, problems = find_labelme(folders, without=out)
    if not sources:
        raise LabelmeError(f"{', '.join(map(str, folders[:3]))}: no LabelMe file (*.json) there; check the path")
    taken: set[str] = set()
    names = {source: distinct_stem(source, taken) for source in sources}
    with Journal(out, folders) as journal:
        before = {source: journal.done(source, names[source], rules.renamed) for source in sources}
        entries = [entry for entry in before.values() if entry]
        taken_over = len(entries)
        tasks = [Task(source, names[source], rules, journal.new) for source in sources if before[source] is None]
        report = progress or (lambda done, total: None)
        report(taken_over, len(sources))
        with contextlib.closing(in_processes(convert_one, tasks, workers)) as results:
            for done, result in enumerate(results, taken_over + 1):
                if isinstance(result, Problem):
                    problems.append(result)
                else:
                    journal.add(result)
                    entries.append(result)
                report(done, len(sources))
        entries.sort(key=lambda entry: entry.name)
        problems += [Problem(Path(e.source), shape, text) for e in entries for shape, text in e.problems]
        dealt = deal(
            [Dealt(_name_in(Path(e.source), folders), e.content, len(e.annotations)) for e in entries],
            shares,
            seed=seed,
            pattern=pattern,
        )
        splits = {
            split: [entry for entry, own in zip(entries, dealt, strict=True) if own == split]
            for split, share in shares.items()
            if share > 0 or split in ("train", "val")
        }
        if entries:
            journal.publish(splits)
    return Conversion(splits, sorted(problems, key=lambda p: (str(p.path), p.shape or 0)), taken_over)


def _table(problems: Sequence[Problem]) -> Table:
    shared = os.path.commonpath([problem.path.absolute().parent for problem in problems])
    title = Text(f"left out ({len(problems)}), below {printable(shared)}")  # Text: brackets in a name are no markup
    table = Table(title=title, title_justify="left")
    for column in ("file", "shape", "problem"):
        table.add_column(column, overflow="fold")  # nothing is cut off
    for path, of_file in itertools.groupby(problems, key=lambda problem: problem.path):
        for number, problem in enumerate(of_file):
            shape = "" if problem.shape is None else str(problem.shape)
            name = "" if number else printable(os.path.relpath(path.absolute(), shared))
            table.add_row(Text(name), shape, Text(problem.text))
    return table


def _summary(out: Path, result: Conversion) -> str:
    counts = ", ".join(f"{split} {len(entries)}" for split, entries in result.splits.items())
    entries = [entry for own in result.splits.values() for entry in own]
    categories = sorted({a["category"] for entry in entries for a in entry.annotations})
    instances = sum(len(entry.annotations) for entry in entries)
    kept = f", {result.taken_over} taken over from before" if result.taken_over else ""
    named = ", ".join(categories[:10]) + (", ..." if len(categories) > 10 else "")
    return f"{out}: {counts} images{kept}; {instances} instances of {named or 'no category'}"


def convert_command(options: Convert) -> int:
    """`crystal convert`; the exit code is 1 if anything was left out."""
    if options.val + options.test > 1:
        raise SplitError(f"--val {options.val} and --test {options.test} add up to more than 1")
    with contextlib.ExitStack() as stack:
        bars = []

        def progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(one_bar("converting", total)))
            bars[0](done)

        result = convert_dataset(
            options.folders,
            options.out,
            rules=LabelRules.parse(options.labels),
            shares={"train": 1 - options.val - options.test, "val": options.val, "test": options.test},
            seed=options.seed,
            group=DROP_IN_NAME if options.group is None else options.group,
            workers=options.workers or os.cpu_count() or 1,
            progress=progress,
        )
    if result.problems:
        console.print(_table(result.problems))
    console.print(_summary(options.out, result), markup=False)
    return 1 if result.problems else 0
