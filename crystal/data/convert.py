"""`crystal convert`: folders of LabelMe files become a dataset to train on.

    DATASET/{train,val}.json               COCO's format, ids from 1, the same categories in both
    DATASET/<split>/images/<name>.jpg      the image: the file itself where it is an upright JPEG or PNG, else a PNG
    DATASET/<split>/labelme/<name>_json/   what LabelMe 3.16.2 wrote for an image, and a mask an instance (folder.py)

Files that cannot be used are skipped and listed. Nothing outside DATASET is written, whatever the files hold: names
come from the JSON files' own, with anything but letters, digits and a few signs replaced.
"""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from crystal.console import Bar, Bars, console, printable
from crystal.data.coco_file import coco_document
from crystal.data.dataset import alike
from crystal.data.images import encode_png
from crystal.data.labelme.coco import INFO, convert_file, explain, find_labelme
from crystal.data.labelme.document import LabelmeError, Omission, read_labels
from crystal.data.labelme.folder import write_folder
from crystal.data.labelme.labels import LabelRuleError, LabelRules
from crystal.data.options import Convert
from crystal.data.pool import in_processes
from crystal.data.splits import DROP_IN_NAME, SplitError, SplitImage, assign_splits, compile_pattern, stay_together
from crystal.files import OutputError, distinct_stem, explained_writing, folder_written_whole

MANY = 200  # files whose labels are read by several processes


class Task(NamedTuple):
    """One LabelMe file to convert: into `folder`, under a name of its own."""

    source: Path
    name: str
    rules: LabelRules
    folder: Path


class ConvertedImage(NamedTuple):
    """One converted image, whose files lie in its task's folder until its split is known.

    Attributes:
        source: the LabelMe file.
        name: of its files in the dataset, without suffix.
        content: a hash of the pixels.
        image: COCO's image, without id.
        annotations: COCO's, without ids, categories by name.
        regions: crowds where shapes lie that could not be used; their categories may be those of no object.
        problems: what was left out.
    """

    source: Path
    name: str
    content: str
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    regions: list[dict[str, Any]]
    problems: list[Omission]


class Conversion(NamedTuple):
    """The converted images of each split, what was left out, and of how many drops the images are."""

    splits: dict[str, list[ConvertedImage]]
    problems: list[Omission]
    drops: int


def _convert(task: Task) -> ConvertedImage:
    converted = convert_file(task.source, task.rules)
    file_name = task.name + converted.suffix
    if converted.encoded is None:
        converted = converted._replace(encoded=encode_png(converted.pixels))
    with explained_writing(task.folder / file_name):
        (task.folder / file_name).write_bytes(converted.encoded or b"")
        write_folder(task.folder / f"{task.name}_json", converted)
    height, width = converted.pixels.shape[:2]
    image = {"file_name": file_name, "height": height, "width": width}
    found = converted.annotations, converted.regions, converted.problems
    return ConvertedImage(task.source, task.name, converted.content, image, *found)


def convert_one(task: Task) -> ConvertedImage | Omission:
    """Convert a file in a worker process. Whatever is wrong with it is an `Omission`; OutputError alone is raised."""
    try:
        return _convert(task)
    except OutputError:
        raise
    except Exception as error:
        return explain(task.source, error)


def _name_in(source: Path, folders: Sequence[Path]) -> str:
    """The source's path below the folder it was found in, without suffix: it identifies its drop or plate."""
    for folder in folders:
        with contextlib.suppress(ValueError):
            return source.relative_to(folder).with_suffix("").as_posix()
    return source.stem


def _refuse_labels_alike(sources: Sequence[Path], rules: LabelRules, workers: int) -> None:
    """Ask what is meant where categories differ only in case, before the images are read. Raises LabelRuleError."""
    found = in_processes(partial(read_labels, rules=rules), sources, workers if len(sources) > MANY else 1)
    with contextlib.closing(found):
        names = set().union(*found)
    same = alike(names - {name for name in rules.renamed.values() if rules.renamed.get(name) == name})
    if same:
        example = " ".join(f"--labels {printable(name)}={printable(same[-1])}" for name in same[:-1])
        raise LabelRuleError(
            f"the labels {', '.join(map(printable, same))} differ only in upper and lower case; to join them, add "
            f"{example}; to keep them apart, --labels {printable(same[0])}={printable(same[0])}"
        )


def _write_split(folder: Path, new: Path, images: Sequence[ConvertedImage], categories: Sequence[str]) -> None:
    """Move a split's files from `new` into its folders and write its COCO file."""
    for kind in ("images", "labelme"):
        (folder / kind).mkdir(parents=True)
    for one in images:
        file_name = one.image["file_name"]
        (new / file_name).rename(folder / "images" / file_name)
        (new / f"{one.name}_json").rename(folder / "labelme" / f"{one.name}_json")
    document = coco_document([(one.image, [*one.annotations, *one.regions]) for one in images], categories, **INFO)
    folder.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")


def convert_dataset(
    folders: Sequence[Path],
    out: Path,
    *,
    rules: LabelRules,
    shares: Mapping[str, float],
    seed: int = 0,
    group: str = DROP_IN_NAME,
    workers: int = 2,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Conversion:
    """Convert LabelMe files into the new folder `out`: all that can be used, or, after an error, nothing.

    Args:
        folders: LabelMe files, or folders searched at any depth.
        out: a folder that does not exist yet, or is empty.
        rules: which labels are renamed or dropped.
        shares: split -> share of the images; see `splits.assign_splits`.
        seed: of the splits.
        group: regular expression that finds the drop or plate in a file's name below its folder.
        workers: processes.
        progress: called as progress(done, total).

    Returns:
        The `Conversion`; `out` is not made if no file can be used.

    Raises:
        LabelmeError: no JSON file at all.
        LabelRuleError: labels that differ only in case, and no rule says what they mean.
        SplitError, OutputError: bad settings, a folder in use, a full disk.
    """
    pattern = compile_pattern(group)
    assign_splits([], shares, seed=seed)  # raises for wrong shares before the work
    sources, problems = find_labelme(folders)
    if not sources:
        raise LabelmeError(f"{', '.join(map(str, folders[:3]))}: no LabelMe file (*.json) there; check the path")
    _refuse_labels_alike(sources, rules, workers)
    taken: set[str] = set()
    images: list[ConvertedImage] = []
    with folder_written_whole(out) as partial:
        new = partial / "new"
        new.mkdir()
        tasks = [Task(source, distinct_stem(source, taken), rules, new) for source in sources]
        progress(0, len(sources))
        # Closed at once, so that no worker outlives a Ctrl-C.
        with contextlib.closing(in_processes(convert_one, tasks, workers)) as results:
            for done, result in enumerate(results, 1):
                if isinstance(result, Omission):
                    problems.append(result)
                else:
                    images.append(result)
                    problems += result.problems
                progress(done, len(sources))
        images.sort(key=lambda one: one.name)
        named = [SplitImage(_name_in(one.source, folders), one.content, len(one.annotations)) for one in images]
        drops = len(stay_together(named, pattern))
        assigned = assign_splits(named, shares, seed=seed, pattern=pattern)
        splits = {
            split: [one for one, own in zip(images, assigned, strict=True) if own == split]
            for split, share in shares.items()
            if share > 0 or split in ("train", "val")
        }
        categories = sorted({annotation["category_id"] for one in images for annotation in one.annotations})
        for split, own in splits.items() if images else ():
            _write_split(partial / split, new, own, categories)
        shutil.rmtree(new)
    return Conversion(splits, sorted(problems, key=lambda p: (str(p.path), p.shape or 0)), drops)


def _table(problems: Sequence[Omission]) -> Table:
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
    counts = ", ".join(f"{split} {len(images)}" for split, images in result.splits.items())
    names = [a["category_id"] for images in result.splits.values() for one in images for a in one.annotations]
    categories = sorted(set(names))
    named = ", ".join(categories[:10]) + (", ..." if len(categories) > 10 else "")
    regions = sum(len(one.regions) for images in result.splits.values() for one in images) if names else 0
    ignored = f"; {regions} regions to ignore, where shapes could not be used" if regions else ""
    drops = f"{result.drops} drop{'s' if result.drops != 1 else ''} (by file name; --group says it otherwise)"
    return f"{out}: {counts} images of {drops}; {len(names)} instances of {named or 'no category'}{ignored}"


def convert_command(options: Convert) -> int:
    """`crystal convert`; the exit code is 1 if anything was left out."""
    if options.val + options.test > 1 + 1e-9:
        raise SplitError(f"--val {options.val} and --test {options.test} add up to more than 1")
    bar: Bar | None = None
    with Bars() as bars:

        def progress(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or bars.add("converting", total)
            bar(done)

        result = convert_dataset(
            options.folders,
            options.out,
            rules=LabelRules.parse(options.labels),
            shares={"train": round(1 - options.val - options.test, 9), "val": options.val, "test": options.test},
            seed=options.seed,
            group=DROP_IN_NAME if options.group is None else options.group,
            workers=options.workers or os.cpu_count() or 1,
            progress=progress,
        )
    if result.problems:
        console.print(_table(result.problems))
    console.print(_summary(options.out, result), markup=False)
    return 1 if result.problems else 0
