"""What `crystal convert` has done so far, so that an interrupted or repeated run goes on instead of starting anew.

    OUT/.convert/journal.jsonl    a line an image that is done: its sources, name and annotations
    OUT/.convert/new/<name>/      its files, until all images are done and the splits are known
    OUT/<split>/images/<name>.jpg|.png, OUT/<split>/labelme/<name>_json/, OUT/<split>.json

An image's folder in `new` appears whole, by a rename, before its line is written. `publish` moves files, and can be
repeated after it was cut short. An image whose sources have not changed since is not converted again.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crystal.data.labelme.coco import to_dataset
from crystal.errors import CrystalError
from crystal.files import explained_writing

SPLITS = ("train", "val", "test")
FORMAT = 1  # raised where a new version of this code writes other files: then all are converted again


class JournalError(CrystalError, RuntimeError):
    """An output folder that is not ours, or of another job; the message names it and the remedy."""


class Entry(NamedTuple):
    """One converted image, as JSON holds it.

    Attributes:
        source: the LabelMe file.
        name: of its files in the dataset, without suffix.
        suffix: of the image file.
        rules: the label rules it was converted by.
        files: (path, bytes, time of change in ns) of each file that was read.
        content: a hash of the pixels.
        height: of the image, in pixels.
        width: of the image.
        annotations: COCO's, without ids, `category` by name.
        problems: (shape, text) of each shape that was left out.
        format: of the files.
    """

    source: str
    name: str
    suffix: str
    rules: dict[str, str]
    files: list[list[Any]]
    content: str
    height: int
    width: int
    annotations: list[dict[str, Any]]
    problems: list[list[Any]]
    format: int = FORMAT


def state_of(paths: Iterable[Path]) -> list[list[Any]]:
    """(path, bytes, time of change) of files, by which a change is noticed."""
    return [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]


def _unchanged(files: list[list[Any]]) -> bool:
    try:
        return state_of(Path(path) for path, *_ in files) == files
    except (OSError, ValueError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _entries(path: Path) -> dict[str, Entry]:
    """The journal's images by source; a line that was cut short, or is not ours, does not count."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = Entry(**json.loads(line))
            if entry.name == Path(entry.name).name and entry.suffix in (".jpg", ".png"):  # never outside of OUT
                entries[entry.source] = entry
        except (ValueError, TypeError):
            continue
    return entries


class Journal:
    """A context over the output folder.

    Args:
        out: the dataset's folder: new, empty, or one that an earlier conversion of the same folders wrote.
        folders: what is converted.

    Raises:
        JournalError: `out` holds something else.
        OutputError: it cannot be written.
    """

    def __init__(self, out: Path, folders: Iterable[Path]) -> None:
        self.out, self.new = out, out / ".convert" / "new"
        self._path, owner = out / ".convert" / "journal.jsonl", out / ".convert" / "folders.json"
        named = sorted(str(folder.resolve()) for folder in folders)
        if owner.exists():
            before = json.loads(owner.read_text(encoding="utf-8"))
            if before != named:
                raise JournalError(
                    f"{out} was converted from {', '.join(map(str, before[:3]))}; name the same folders, or another "
                    "--out: it would lose what came from there"
                )
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise JournalError(f"{out} already exists and is not empty; name another folder or remove this one")
        with explained_writing(out):
            self.new.mkdir(parents=True, exist_ok=True)
            _write(owner, json.dumps(named))
            self.entries = _entries(self._path)
            self._stale = dict(self.entries)
            self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def done(self, source: Path, name: str, rules: Mapping[str, str]) -> Entry | None:
        """The entry of a file that need not be converted again: nothing it depends on has changed."""
        entry = self.entries.get(str(source))
        if entry is None or (entry.name, entry.rules, entry.format) != (name, dict(rules), FORMAT):
            return None
        if not _unchanged(entry.files):
            return None
        return entry if all(self._places(new, final) for new, final in self._pieces(entry)) else None

    def add(self, entry: Entry) -> None:
        """Note that an image's files lie in `new`."""
        self.entries[entry.source] = entry
        with explained_writing(self._path):
            self._file.write(json.dumps(entry._asdict()) + "\n")
            self._file.flush()

    def _pieces(self, entry: Entry) -> tuple[tuple[Path, str], ...]:
        """Where each of an image's pieces lies when new, and below its split."""
        new = self.new / entry.name
        image = f"images/{entry.name}{entry.suffix}"
        return (new / f"image{entry.suffix}", image), (new / "labelme", f"labelme/{entry.name}_json")

    def _places(self, new: Path, final: str) -> list[Path]:
        """Where a piece lies, the newest first."""
        return [path for path in (new, *(self.out / split / final for split in SPLITS)) if path.exists()]

    def publish(self, splits: Mapping[str, list[Entry]]) -> None:
        """Put the files of all entries in their places, remove those of sources that are gone, write the COCO files."""
        kept = {(entry.name, entry.suffix) for own in splits.values() for entry in own}
        categories = sorted({a["category"] for own in splits.values() for entry in own for a in entry.annotations})
        with explained_writing(self.out):
            for split in SPLITS:  # gone first: while files move they would not tell the truth
                (self.out / f"{split}.json").unlink(missing_ok=True)
            for entry in self._stale.values():
                if (entry.name, entry.suffix) not in kept:
                    for new, final in self._pieces(entry):
                        for place in self._places(new, final):
                            _remove(place)
            for split, own in splits.items():
                for kind in ("images", "labelme"):
                    (self.out / split / kind).mkdir(parents=True, exist_ok=True)
                for entry in own:
                    for new, final in self._pieces(entry):
                        self._move(new, final, self.out / split / final)
                images = [
                    (
                        {"file_name": entry.name + entry.suffix, "height": entry.height, "width": entry.width},
                        entry.annotations,
                    )
                    for entry in own
                ]
                _write(self.out / f"{split}.json", json.dumps(to_dataset(images, categories)))
            self._file.close()
            lines = (json.dumps(entry._asdict()) + "\n" for own in splits.values() for entry in own)
            _write(self._path, "".join(lines))
            shutil.rmtree(self.new)

    def _move(self, new: Path, final: str, goal: Path) -> None:
        newest, *older = self._places(new, final)
        for place in older:
            _remove(place)
        if newest != goal:
            os.replace(newest, goal)
