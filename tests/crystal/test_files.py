"""Names that do not collide, and that any file system takes; files that are replaced whole."""

import contextlib
import os
import re
from pathlib import Path

import pytest

from crystal.files import (
    LONGEST,
    OutputError,
    distinct_stem,
    folder_written_whole,
    name_outputs,
    write_atomically,
)


def test_names_of_images_in_two_folders_differ():
    paths = [Path("p/a/1.jpg"), Path("p/b/1.jpg"), Path("q/b/1.jpg"), Path("q/b/b_1.jpg"), Path("p/a/1.jpg")]
    names = name_outputs(paths)
    assert list(names) == paths[:4]  # a file that is given twice is one file
    assert len({name.stem.casefold() for name in names.values()}) == 4
    assert [n.file_name for n in names.values()] == ["p/a/1.jpg", "p/b/1.jpg", "q/b/1.jpg", "q/b/b_1.jpg"]
    assert name_outputs([Path("x/1.jpg"), Path("y/2.jpg")])[Path("y/2.jpg")] == ("2.jpg", "2")
    assert name_outputs([]) == {}


def test_what_a_name_may_not_hold_becomes_an_underscore():
    taken = set()
    wild = [
        "a/..json",
        "a/CON\n\x1b[31m.json",
        "a/../../etc.json",
        "a/\udcff.json",
        "a/" + "x" * 250 + ".json",
        "a/" + "晶" * 83 + ".json",
        "b/" + "晶" * 83 + ".json",
        "c/../b/" + "晶" * 83 + ".json",
        "a/drüse (2).json",
    ]
    names = [distinct_stem(Path(path), taken) for path in wild]
    assert len({name.casefold() for name in names}) == len(wild)
    for name in names:
        assert name.isprintable()
        assert not re.search(r'^\.|[<>:"/\\|?*]', name)
        assert len(name.encode()) <= LONGEST
    assert names[-1] == "drüse (2)"


@pytest.mark.parametrize(
    "name", ["plate 1, well A1 #2", "100%_50mM", "x" * 100, "Kru\u0308mel", "हिंदी", "A1.day7", "3.04\u202fPM"]
)
def test_a_name_that_can_stay_stays(name):
    """LabelMe looks for the outlines of an image under the image's own name."""
    assert distinct_stem(Path(f"a/{name}.jpg"), set()) == name


def test_the_form_of_accents_makes_no_name():
    taken = set()
    names = [distinct_stem(Path(f"a/{name}.jpg"), taken) for name in ("Kr\u00fcmel", "kru\u0308mel")]
    assert names == ["Kr\u00fcmel", "a_kru\u0308mel"]


def test_the_third_of_a_name_gets_a_number():
    taken = set()
    same = [distinct_stem(Path(f"{folder}/plate/A1.json"), taken) for folder in "abcd"]
    assert same == ["A1", "plate_A1", "plate_A1_2", "plate_A1_3"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "numbers.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"

    def full_disk(path, data):
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match=r"numbers\.json.*no space left.*free some space"):
        write_atomically(path, "newer")
    monkeypatch.undo()
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["numbers.json"]


@pytest.mark.parametrize("error", [ValueError("no ink"), KeyboardInterrupt(), None])
def test_a_folder_that_is_not_finished_leaves_nothing(tmp_path, error):
    with contextlib.suppress(type(error)), folder_written_whole(tmp_path / "out") as folder:
        if error:
            (folder / "half").mkdir()
            raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_and_replaces_none_but_an_empty_one(tmp_path):
    for _ in range(2):
        with folder_written_whole(tmp_path / "deep" / "out") as folder:
            (folder / "a").write_text("a")
            assert not (tmp_path / "deep" / "out" / "a").exists()
        (tmp_path / "deep" / "out" / "a").unlink()
    (tmp_path / "file").touch()
    for out in (tmp_path / "deep", tmp_path / "file"):
        with pytest.raises(OutputError, match="not empty; name another"), folder_written_whole(out):
            pytest.fail("begun")


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(OutputError, match="a disk or volume of its own"), folder_written_whole(tmp_path):
        pytest.fail("begun")
