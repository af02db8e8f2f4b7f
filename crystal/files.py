"""Files and folders that are written: names fit for any system, no two alike, and replaced or made in one step."""

import contextlib
import errno
import itertools
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crystal.errors import CrystalError

LONGEST = 240  # bytes of a name; file systems take 255, with the suffix and what marks a half-written file
FORBIDDEN = '<>:"/\\|?*'  # in names, by one system or another


class OutputName(NamedTuple):
    """How an image is called in the results.

    Attributes:
        file_name: in the tables: its bare name, or, where that occurs twice in the batch, its path below the folder
            that all images share.
        stem: of its own files, without suffix; different for all images, also where capitals do not count.
    """

    file_name: str
    stem: str


def _fit(name: str) -> str:
    """A name that any system takes: signs that one forbids, and those that control a terminal, become `_`."""
    bad = (sign in FORBIDDEN or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)
    return "".join("_" if wrong else sign for wrong, sign in zip(bad, name, strict=True)).lstrip(". ")


def _cut(name: str, most: int) -> str:
    """The first `most` bytes of a name, whole letters."""
    return name.encode()[:most].decode(errors="ignore")


def alike(name: str) -> str:
    """Equal for two names that a file system may confuse: capitals and the form of accents do not count."""
    return unicodedata.normalize("NFC", name).casefold()


def distinct_stem(path: Path, taken: set[str]) -> str:
    r"""A name for what is made of a file: its own, which is how LabelMe finds an image's outlines, or, where that is
    `taken` (`alike`), with its folder's. It is added to `taken`.

    Fit for a file of any system.

    >>> taken = set()
    >>> [distinct_stem(Path(p), taken) for p in ("a/drop.json", "b/Drop.json", "b/.dr\nop?.json")]
    ['drop', 'b_Drop', 'dr_op_']
    """
    stem, folder = (_fit(name) or "image" for name in (path.stem, path.absolute().parent.name))
    longer = f"{folder}_{stem}"
    numbered = (f"{_cut(longer, LONGEST - 8)}_{n}" for n in itertools.count(2))
    tries = itertools.chain((_cut(stem, LONGEST), _cut(longer, LONGEST)), numbered)
    found = next(name for name in tries if alike(name) not in taken)
    taken.add(alike(found))
    return found


def name_outputs(paths: Sequence[Path]) -> dict[Path, OutputName]:
    """Name the results of each image, so that none overwrites another's.

    >>> names = name_outputs([Path("a/drop.jpg"), Path("a/drop.png"), Path("b/Drop.jpg"), Path("b/drop.jpg")]).values()
    >>> [name.stem for name in names]
    ['drop', 'a_drop', 'b_Drop', 'b_drop_2']
    >>> [name.file_name for name in names]
    ['a/drop.jpg', 'a/drop.png', 'b/Drop.jpg', 'b/drop.jpg']
    """
    paths = list(dict.fromkeys(paths))
    unique = len({path.name for path in paths}) == len(paths)
    shared = "" if unique else os.path.commonpath([path.absolute().parent for path in paths])
    names: dict[Path, OutputName] = {}
    taken: set[str] = set()
    for path in paths:
        stem = distinct_stem(path, taken)
        file_name = path.name if unique else Path(os.path.relpath(path.absolute(), shared)).as_posix()
        names[path] = OutputName(file_name, stem)
    return names


def spellings(name: str) -> list[str]:
    """A name and its composed and decomposed forms (NFC, NFD): macOS and archives change one for the other.

    >>> [len(name) for name in spellings("Kr\u00fcmel.png")], spellings("a.png")
    ([10, 11], ['a.png'])
    """
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def files_below(folder: Path, skip: Callable[[Path], object] = lambda folder: False) -> Iterator[Path]:
    """The files in a folder at any depth, in the order of their names; hidden ones are left out, in folders too.

    Links to folders are followed, and each folder is entered once: links may lead in a circle. A folder that cannot be
    listed is among the files, so that reading it names it.

    Args:
        folder: where to search.
        skip: whether to leave out a folder below it, with all that it holds.
    """
    seen: set[str] = set()
    closed: list[Path] = []
    for where, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: closed.append(Path(e.filename))):
        real = os.path.realpath(where)
        visible = [] if real in seen else [name for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [name for name in visible if not skip(Path(where, name))]
        if real not in seen:
            yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))
        seen.add(real)
    yield from closed


class OutputError(CrystalError, RuntimeError):
    """A file that cannot be written; the message names it and the remedy."""


def refuse_replacing(path: Path, mark: str, what: str) -> None:
    """Refuse to write where another file lies than an earlier output of the same kind: it may be somebody's data.

    Args:
        path: the file to write.
        mark: what an output of that kind holds in its first megabyte.
        what: the kind, for the message.

    Raises:
        OutputError: there is a folder, or a file without the mark.
    """
    with explained_writing(path):
        if not path.exists():
            return
        if path.is_file():
            with path.open("rb") as file:
                if mark.encode() in file.read(2**20):
                    return
    raise OutputError(f"{path} exists and is not {what}; choose another name, so that nothing is lost")


@contextlib.contextmanager
def explained_writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing into an `OutputError` about `path`."""
    try:
        yield
    except OSError as error:
        at = error.filename or path
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or choose another --out" if full else "choose an --out that can be written"
        raise OutputError(f"cannot write {at}: {(error.strerror or str(error)).lower()}; {remedy}") from error


@contextlib.contextmanager
def folder_written_whole(out: Path) -> Iterator[Path]:
    """A folder written whole or not at all: write into the one given, which becomes `out` when the block ends.

    Where the block raises, Ctrl-C included, or writes nothing, nothing is left.

    Raises:
        OutputError: `out` is a file, a folder with something in it or a mount point, or cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} already exists and is not empty; name another folder or remove this one")
    if out.is_mount():
        raise OutputError(f"{out} is a disk or volume of its own, which cannot be replaced; name a new folder in it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with explained_writing(out):
            partial.mkdir(parents=True)
            yield partial
            if any(partial.iterdir()):
                if out.exists():
                    out.rmdir()
                partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: whoever reads it sees the old content or the new, never a part.

    Raises:
        OutputError: the disk does not take it; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with explained_writing(path):
        try:
            temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
