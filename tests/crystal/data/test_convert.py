"""`crystal convert` as a whole: the dataset's files, what is refused, and what is listed."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from crystal.data import convert as module
from crystal.data.convert import convert_command, convert_dataset
from crystal.data.dataset import load_split
from crystal.data.images import read_image
from crystal.data.labelme import LabelRules, to_coco
from crystal.data.options import Convert
from crystal.errors import CrystalError
from crystal.files import OutputError
from tests.labelme_files import document, encoded, picture, shape, write

SHARES = {"train": 0.6, "val": 0.4, "test": 0.0}


@pytest.fixture
def folder(tmp_path):
    """Six drops with 0 to 5 crystals, one of them photographed twice, and one of them copied under another name."""
    for i in range(6):
        write(tmp_path / "in", f"plate_A{i + 1:02d}_1", [shape() for _ in range(i)], seed=i)
    write(tmp_path / "in", "plate_A03_2", [shape()], seed=10)
    write(tmp_path / "in" / "copies", "holiday", [shape("ice")], seed=4)
    return tmp_path / "in"


def run(folder, out, **settings):
    return convert_dataset([folder], out, **{"rules": LabelRules(), "shares": SHARES, "workers": 1} | settings)


def below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_dataset_that_the_loader_reads(folder, tmp_path):
    result = run(folder, tmp_path / "out")
    assert result.problems == []
    found = {}
    for split in ("train", "val"):
        loaded = load_split(tmp_path / "out", split)
        assert loaded.problems == ()
        assert [name for _, name in loaded.categories] == ["background", "crystal", "ice"]
        coco = json.loads((tmp_path / "out" / f"{split}.json").read_text())
        assert [i["id"] for i in coco["images"]] == list(range(1, len(coco["images"]) + 1))
        assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        for record in loaded.records:
            found[record.path.stem] = split, len(record.instances)
            assert record.path.parent == tmp_path / "out" / split / "images"
            beside = tmp_path / "out" / split / "labelme" / f"{record.path.stem}_json"
            assert np.array_equal(np.array(Image.open(beside / "img.png")), read_image(record.path))
            assert len(list((beside / "masks").iterdir())) == len(record.instances)
    assert {name: count for name, (_, count) in found.items()} == {
        **{f"plate_A{i + 1:02d}_1": i for i in range(6)},
        "plate_A03_2": 1,
        "holiday": 1,
    }
    assert found["plate_A03_1"][0] == found["plate_A03_2"][0]  # the same drop
    assert found["plate_A05_1"][0] == found["holiday"][0]  # the same picture
    assert {split for split, _ in found.values()} == {"train", "val"}


def test_the_same_annotations_as_in_memory(folder, tmp_path):
    run(folder, tmp_path / "out", shares={"train": 1.0, "val": 0.0})
    written = json.loads((tmp_path / "out" / "train.json").read_text())
    coco, _ = to_coco(folder)

    def by_image(document):
        names = {i["id"]: i["file_name"] for i in document["images"]}
        plain = [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in document["annotations"]]
        return {
            name: [p for p, a in zip(plain, document["annotations"], strict=True) if names[a["image_id"]] == name]
            for name in names.values()
        }

    assert by_image(written) == by_image(coco)
    assert json.loads((tmp_path / "out" / "val.json").read_text())["images"] == []


def test_as_many_workers_as_one_likes(folder, tmp_path):
    run(folder, tmp_path / "one")
    run(folder, tmp_path / "two", workers=2)
    assert below(tmp_path / "one") == below(tmp_path / "two")


def test_an_interrupt_leaves_nothing(folder, tmp_path, monkeypatch):
    real, done = module.convert_one, []

    def interrupted(task):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(task.name)
        return real(task)

    monkeypatch.setattr(module, "convert_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_folder_in_use_is_not_touched(folder, tmp_path):
    """Neither another's nor an earlier conversion, also where it lies among the files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    run(folder, folder / "out")
    for out in (tmp_path / "mine", folder / "out"):
        before = below(out)
        with pytest.raises(OutputError, match="not empty; name another folder or remove this one"):
            run(folder, out)
        assert below(out) == before


def test_images_go_in_as_they_are_where_every_program_shows_them_alike(tmp_path):
    (tmp_path / "in").mkdir()
    jpeg = encoded(picture(), "JPEG", quality=90)
    for name, data in {"a.jpg": jpeg, "b.bmp": encoded(picture(), "BMP"), "c.png": encoded(picture())}.items():
        (tmp_path / "in" / name).write_bytes(data)
        (tmp_path / "in" / f"{name[0]}.json").write_text(json.dumps(document([], name)))
    run(tmp_path / "in", tmp_path / "out", shares={"train": 1.0})
    images = tmp_path / "out" / "train" / "images"
    assert sorted(p.name for p in images.iterdir()) == ["a.jpg", "b.png", "c.png"]
    assert (images / "a.jpg").read_bytes() == jpeg
    assert (images / "c.png").read_bytes() == encoded(picture())
    assert np.array_equal(read_image(images / "b.png"), picture())


def test_labels_that_differ_only_in_case_are_asked_about(tmp_path, monkeypatch):
    """Before the images are read."""
    for name, label in zip("abc", ("Crystal", "crystal", "CRYSTAL-1"), strict=True):
        write(tmp_path / "in", name, [shape(label), shape("ice")], seed=ord(name))
    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_one", lambda task: pytest.fail("converted"))
        with pytest.raises(CrystalError, match=r"the labels CRYSTAL, Crystal, crystal differ only in upper") as said:
            run(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert "--labels CRYSTAL=crystal --labels Crystal=crystal;" in str(said.value)
        with pytest.raises(CrystalError, match="the labels CRYSTAL, crystal differ"):
            run(tmp_path / "in", tmp_path / "out", rules=LabelRules.parse(["Crystal=crystal"]))
    for number, (words, names) in enumerate(
        [
            (["Crystal=crystal", "CRYSTAL=crystal"], ["crystal", "ice"]),
            (["Crystal=Crystal", "CRYSTAL="], ["Crystal", "crystal", "ice"]),
        ]
    ):
        run(tmp_path / "in", tmp_path / f"out{number}", rules=LabelRules.parse(words), shares={"train": 1.0})
        assert [name for _, name in load_split(tmp_path / f"out{number}", "train").categories[1:]] == names


def test_only_bad_files_make_no_dataset(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{")
    result = run(tmp_path / "in", tmp_path / "out")
    assert len(result.problems) == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrystalError, match="no LabelMe file"):
        run(tmp_path / "empty", tmp_path / "out")


def test_a_full_disk_is_no_problem_of_the_file(folder, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_folder", full)
    with pytest.raises(OutputError, match="free some space"):
        run(folder, tmp_path / "out")
    monkeypatch.undo()
    assert run(folder, tmp_path / "out").problems == []


def test_the_command_lists_what_was_left_out(folder, tmp_path, capsys):
    options = Convert((folder,), tmp_path / "out", labels=("ice=crystal",), val=0.3, workers=1)
    assert convert_command(options) == 0
    assert "17 instances of crystal" in capsys.readouterr().out
    (folder / "bad[red].json").write_text("{")
    write(folder, "line", [shape(kind="line", points=[(1, 1), (5, 5)]), shape()], seed=30)
    assert convert_command(dataclasses.replace(options, out=tmp_path / "second")) == 1
    said = "".join(capsys.readouterr().out.split())
    assert "leftout(2)" in said
    assert "bad[red].json" in said
    assert "covers" in said
    with pytest.raises(CrystalError, match="more than 1"):
        convert_command(dataclasses.replace(options, out=tmp_path / "third", val=0.8, test=0.5))
    assert not (tmp_path / "third").exists()
