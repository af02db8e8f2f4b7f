"""`crystal check`: each fault is named for its file, and what is said of training is what training does."""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from crystal.cli import main
from crystal.data.check import check, rows_of
from crystal.data.coco_file import DatasetError
from crystal.data.dataset import left_out, load_split
from crystal.data.loader import training_loader
from crystal.data.problems import Effect

HEIGHT, WIDTH = 60, 80
OPTIONS = {"size": (48, 64), "batch_size": 1, "slots": 4, "mask_size": 16, "seed": 0, "clahe": False, "augment": False}
SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def box(x, y, w, h) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def thing(x=10, y=10, w=20, h=20, **changes) -> dict:
    fields = {"category_id": 1, "segmentation": [box(x, y, w, h)], "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
    return fields | changes


def write(root: Path, splits: dict[str, dict[str, list[dict]]], **changes) -> Path:
    """splits: name -> image name -> annotations. Images differ from each other."""
    for seed, (split, images) in enumerate(splits.items()):
        (root / split / "images").mkdir(parents=True, exist_ok=True)
        coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "crystal"}]} | changes
        for number, (name, annotations) in enumerate(images.items(), 1):
            noise = np.random.default_rng(100 * seed + number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            cv2.imwrite(str(root / split / "images" / name), noise)
            coco["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for annotation in annotations:
                coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": number} | annotation)
        (root / f"{split}.json").write_text(json.dumps(coco))
    return root


def found(root: Path, slots=4) -> set[tuple[str, int | None, str, Effect]]:
    problems = check(root, slots=slots).problems
    return {(p.file_name, p.annotation_id, p.text, p.effect) for own in problems.values() for p in own}


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["crystal", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_sound_dataset_has_nothing_and_exits_0(tmp_path, monkeypatch, capsys):
    root = write(tmp_path, {"train": {"a.png": [thing()]}, "val": {"b.png": [thing(), thing(45, 10)]}})
    assert found(root) == set()
    assert command(monkeypatch, root) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    assert (root / "check.html").exists()


CROSSED = [10, 10, 40, 40, 40, 10, 10, 40]
SLIVER = [10.0, 10.3, 30.0, 10.3, 30.0, 10.4, 10.0, 10.4]
OBJECTS = {
    "under three points": (
        thing(segmentation=[[1, 1, 5, 5]]),
        "the polygon has fewer than three points",
        "PLACE_IGNORED",
    ),
    "no area": (thing(segmentation=[[1, 1, 5, 5, 9, 9]]), "the polygon has no area", "PLACE_IGNORED"),
    "outside": (thing(200, 10), "the polygon lies outside the image", "LEFT_OUT"),
    "partly outside": (
        thing(70, 10, 20, 20, bbox=[70, 10, 10, 20], area=200),
        "the polygon reaches outside the image",
        "CLIPPED",
    ),
    "no image": (thing(image_id=77), "no image has the id 77", "LEFT_OUT"),
    "no pixel": (
        thing(segmentation=[SLIVER], bbox=[10, 10.3, 20, 0.1], area=2),
        "it is too thin to cover a pixel's centre",
        "EMPTY_MASK",
    ),
    "crossing": (
        thing(segmentation=[CROSSED], bbox=[10, 10, 30, 30], area=450),
        "the polygon crosses itself",
        "PARITY",
    ),
    "wrong area": (thing(area=3000), "its area is wrong", "UNREAD"),
    "no area given": (thing(area=None), "its area is not given", "UNREAD"),
    "wrong box": (thing(bbox=[10, 10, 40, 40]), "its bbox does not fit its outline", "MENDED"),
    "crowd": (thing(iscrowd=1), "it is a crowd", "IGNORED"),
    "half a crowd": (thing(iscrowd=0.5), "its iscrowd is neither 0 nor 1", "AN_OBJECT"),
    "unknown category": (thing(category_id=5), "the category 5 is not among the file's; .*", "REFUSED"),
    "runs": (
        thing(segmentation={"size": [60, 80], "counts": [5, 6]}),
        "the run lengths do not add up.*",
        "PLACE_IGNORED",
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(tmp_path, name):
    """Alone beside a sound one, so that nothing else is found."""
    bad, text, effect = OBJECTS[name]
    root = write(tmp_path, {"train": {"a.png": [thing(45, 10), bad]}})
    ((file_name, number, said, does),) = found(root)
    assert (file_name, number) == ("train.json" if name == "no image" else "a.png", 2)
    assert re.fullmatch(text, said)
    assert does is Effect[effect]


def test_what_is_said_of_training_is_what_it_does(tmp_path):
    """Refused: load_split raises. Left out: it is missing, and a sentence says so. Stops: the loader raises."""
    for number, (name, (bad, _, effect)) in enumerate(OBJECTS.items()):
        root = write(tmp_path / str(number), {"train": {"a.png": [thing(45, 10), bad]}})
        if effect == "REFUSED":
            with pytest.raises(DatasetError):
                load_split(root, "train")
            continue
        split = load_split(root, "train")
        instances = split.records[0].instances
        assert len(instances) == (1 if effect == "LEFT_OUT" else 2), name
        if effect == "LEFT_OUT":
            assert "done without 1 annotation" in left_out(split)
            continue
        assert left_out(split) == ""
        loader = training_loader(split, **OPTIONS)
        batch = next(loader)
        loader.close()
        slot = int(np.argmin(np.abs(batch.boxes[0, :2, 0] - instances[1].box[0] * 0.8)))
        assert batch.crowd[0, slot] == (effect in ("IGNORED", "PLACE_IGNORED")), name
        assert batch.masks[0, slot].any() == (effect not in ("EMPTY_MASK", "IGNORED", "PLACE_IGNORED")), name
        x1, _, x2, _ = batch.boxes[0, slot] / 0.8
        if effect == "CLIPPED":
            assert np.allclose([x1, x2], [70, 80])
        if effect == "MENDED":
            assert np.allclose([x1, x2], [10, 30])
    covered_twice = [10, 10, 50, 10, 50, 50, 10, 50, 10, 10, 20, 20, 40, 20, 40, 40, 20, 40, 20, 20]
    twice = write(tmp_path / "twice", {"train": {"a.png": [thing(segmentation=[covered_twice])]}})
    loader = training_loader(load_split(twice, "train"), **OPTIONS)
    mask = next(loader).masks[0, 0]
    loader.close()
    assert mask[1, 1]
    assert not mask[8, 8]  # Effect.PARITY: a hole where it covers itself twice


def test_images(tmp_path):
    root = write(tmp_path, {"train": {f"{n}.png": [thing()] for n in "abcdef"}})
    folder = root / "train" / "images"
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    cv2.imwrite(str(folder / "b.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    (folder / "c.png").unlink()
    (folder / "d.png").write_bytes(b"")
    said = {(name, effect): text for name, _, text, effect in found(root)}
    assert set(said) == {(f"{n}.png", Effect.STOPS) for n in "abd"} | {("c.png", Effect.REFUSED)}
    assert "cannot be decoded" in said["a.png", Effect.STOPS]
    assert "60 x 80 pixels (upright), but the annotations say 80 x 60" in said["b.png", Effect.STOPS]
    assert "there is no such image" in said["c.png", Effect.REFUSED]
    with pytest.raises(DatasetError, match=r"c\.png: there is no such image"):
        load_split(root, "train")


def test_empty_and_crowded_images(tmp_path):
    many = [thing(12 * k, 5, 9, 9 + k) for k in range(6)]
    root = write(tmp_path, {"train": {"a.png": [], "b.png": [thing(iscrowd=1)], "c.png": many}})
    said = {(name, text, effect) for name, _, text, effect in found(root)}
    assert said == {
        ("a.png", "no object is outlined in it", Effect.BACKGROUND),
        ("b.png", "no object is outlined in it", Effect.BACKGROUND),
        ("b.png", "it is a crowd", Effect.IGNORED),
        ("c.png", "it has more objects than training takes", Effect.SMALLEST_LEFT_OUT),
    }
    assert not {t for _, _, t, _ in found(root, slots=6)} & {"it has more objects than training takes"}


BRUSH = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [600, 20, 40, 20, 4120]}, "iscrowd": 1}
NOTHING = {
    "crowds": ({"a.png": [thing(iscrowd=1)], "b.png": [thing(iscrowd=1)] * 2}, "3 are crowds .* --crowds-as-objects"),
    "brush masks, as CVAT exports them": ({"a.png": [BRUSH], "b.png": []}, "1 are crowds .* --crowds-as-objects"),
    "no annotations": ({"a.png": [], "b.png": []}, "it has no annotations, so there is nothing to learn"),
    "boxes alone": ({"a.png": [thing(segmentation=[])] * 2}, "none of its 2 annotations .* since there is no outline"),
    "other images'": ({"a.png": [thing(image_id=77)]}, "none of its 1 annotations .* no image has the id 77"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_training_split_without_an_object(tmp_path, monkeypatch, capsys, name):
    """It is an error of check and refused by train, before anything is made of it; a validation split may be so."""
    images, said = NOTHING[name]
    fields = {"category_id": 1, "bbox": [10, 0, 2, 20], "area": 40}
    images = {file_name: [fields | annotation for annotation in own] for file_name, own in images.items()}
    root = write(tmp_path / "set", {"train": images, "val": images})
    errors = [p for p in check(root, slots=4).problems["train"] if p.effect is Effect.REFUSED]
    assert [bool(re.search(said, p.text)) for p in errors] == [True]
    assert not [p for p in check(root, slots=4).problems["val"] if p.effect is Effect.REFUSED]
    split = load_split(root, "train")
    with pytest.raises(DatasetError, match=rf"train\.json: .*{said}"):
        training_loader(split, **OPTIONS)
    arguments = ["crystal", "train", "--data", str(root), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_crowds_may_be_taken_for_objects(tmp_path, monkeypatch, capsys):
    fields = {"category_id": 1, "bbox": [10, 0, 2, 20], "area": 40}
    root = write(tmp_path, {"train": {"a.png": [fields | BRUSH]}})
    assert command(monkeypatch, root) == 1
    assert "1 error, 0 warnings, 2 notes" in capsys.readouterr().out
    assert command(monkeypatch, root, "--crowds-as-objects") == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    (instance,) = load_split(root, "train", crowds_as_objects=True).records[0].instances
    assert not instance.crowd
    loader = training_loader(load_split(root, "train", crowds_as_objects=True), **OPTIONS)
    batch = next(loader)
    loader.close()
    assert batch.masks[0, 0].any()


def test_duplicates(tmp_path):
    near = thing(10, 10, 20, 21)
    apart = thing(14, 10, 20, 20)  # IoU 2/3: two crystals that lie on each other
    root = write(
        tmp_path, {"train": {"a.png": [thing(), thing()], "b.png": [thing(), near], "c.png": [thing(), apart]}}
    )
    said = {(name, text) for name, _, text, effect in found(root) if effect is Effect.ALL_USED}
    assert said == {("a.png", "it is the same as another"), ("b.png", "it is nearly the same as another")}
    assert len(load_split(root, "train").records[0].instances) == 2  # each is used, as an object of its own


def test_the_same_picture_twice(tmp_path):
    root = write(tmp_path, {"train": {"a.png": [thing()], "b.png": [thing()]}, "val": {"c.png": [thing()]}})
    image = cv2.imread(str(root / "train/images/a.png"))
    cv2.imwrite(str(root / "train/images/b.png"), image)
    assert found(root) == {("b.png", None, "the same picture is in this split before", Effect.TWICE_AN_EPOCH)}
    cv2.imwrite(str(root / "val/images/c.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])  # other bytes, same pixels
    assert ("c.png", None, "the same picture is in another split", Effect.SEEN_BEFORE) in found(root)


def test_whole_files(tmp_path):
    root = write(tmp_path, {"train": {"a.png": [thing(id=9), thing(45, 10, id=9)]}, "val": {"b.png": [thing()]}})
    said = {(name, text.split(" of ")[0], effect) for name, _, text, effect in found(root)}
    assert said == {("train.json", "annotations share an id", Effect.ALL_USED)}
    coco = json.loads((root / "val.json").read_text())
    coco["categories"] = [{"id": 1, "name": "drop"}]
    (root / "val.json").write_text(json.dumps(coco))
    (root / "other.json").write_text('{"version": "5.0.0"}')  # not a split
    (root / "test.json").write_text('{"images": [')
    said = {(name, effect) for name, _, _, effect in found(root)}
    assert ("val.json", Effect.OTHER_CLASSES) in said
    assert ("test.json", Effect.REFUSED) in said
    assert not [name for name, _ in said if name == "other.json"]


def test_categories_that_differ_only_in_case(tmp_path):
    names = [{"id": 1, "name": "Crystal"}, {"id": 2, "name": "ice"}, {"id": 3, "name": "crystal"}]
    root = write(tmp_path, {"train": {"a.png": [thing()]}}, categories=names)
    ((name, _, text, effect),) = found(root)
    assert (name, effect) == ("train.json", Effect.CLASSES_ALIKE)
    assert "'Crystal', 'crystal' differ only in upper and lower case" in text
    assert "--labels Crystal=crystal" in text


def test_names_outside_the_dataset_are_not_looked_at(tmp_path):
    root = write(tmp_path / "set", {"train": {"a.png": [thing()]}})
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    coco = json.loads((root / "train.json").read_text())
    for name in ("../../../secret.png", str(tmp_path / "secret.png"), "C:\\secret.png", "..\\..\\..\\secret.png"):
        coco["images"][0]["file_name"] = name
        (root / "train.json").write_text(json.dumps(coco))
        assert any(effect is Effect.REFUSED for _, _, _, effect in found(root)), name
        with pytest.raises(DatasetError, match=r"no file inside the dataset's folder|no such image"):
            load_split(root, "train")
    coco["images"][0]["file_name"] = "../images/a.png"  # a detour that stays inside
    (root / "train.json").write_text(json.dumps(coco))
    assert found(root) == set()


# --- the table, the page, the exit code -------------------------------------------------------------------------------


def broken(root: Path) -> Path:
    """A dataset with everything wrong at once."""
    sound = {f"{n}.png": [thing(), thing(45, 10, 12, 3)] for n in "abc"}
    bad = {f"bad {n}.png": [thing(45, 12, 20, 15), bad] for n, (bad, _, _) in OBJECTS.items()}
    named = {"[red]x[1].png": [thing(area=9000)], "empty.png": [], "same.png": [thing(), thing()]}
    write(root, {"train": sound | bad | named, "val": {"v.png": [thing()]}})
    (root / "train/images/c.png").write_bytes(b"no picture")
    cv2.imwrite(str(root / "val/images/v.png"), cv2.imread(str(root / "train/images/a.png")))
    return root


def test_everything_at_once(tmp_path, monkeypatch, capsys):
    root = broken(tmp_path / "set")
    before = sorted(path for path in tmp_path.rglob("*"))
    assert command(monkeypatch, root, "--out", tmp_path / "page.html") == 1
    out = capsys.readouterr().out
    rows = rows_of(check(root, slots=64))
    files = list(dict.fromkeys((row.split, row.file_name) for row in rows))
    with_errors = {(row.split, row.file_name) for row in rows if row.severity == "error"}
    assert set(files[: len(with_errors)]) == with_errors  # they come first
    for name in ("bad no area.png", "bad crossing.png", "c.png", "[red]x[1].png", "v.png"):
        assert f": {name}" in out
    assert max(map(len, out.splitlines()[:-4])) <= 160
    assert sorted(path for path in tmp_path.rglob("*")) == sorted([*before, tmp_path / "page.html"])
    page = (tmp_path / "page.html").read_text()
    assert "[red]x[1].png" in page
    assert not re.search(r"(src|href)=.?(https?:|//)", page)
    assert page.count("<img") > 10


@pytest.mark.parametrize("out", ["train.json", "train/images/a.png", "new", "train", "a.html"])
def test_the_page_replaces_no_file_of_the_dataset(tmp_path, monkeypatch, capsys, out):
    root = write(tmp_path, {"train": {"a.png": [thing()]}})
    (root / "a.html").write_text("an image by this name, say")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert command(monkeypatch, root, "--out", root / out) == 1
    said = capsys.readouterr().err
    assert "choose another name" in said if out.endswith("html") else "needs a name that ends in .html" in said
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_warnings_alone_exit_0(tmp_path, monkeypatch, capsys):
    root = write(tmp_path, {"train": {"a.png": [thing(area=3000), thing(45, 10)]}})
    assert command(monkeypatch, root) == 0
    assert "0 errors, 1 warning, 0 notes" in capsys.readouterr().out


def test_many_rows_are_cut_and_counted(tmp_path, monkeypatch, capsys):
    root = write(tmp_path, {"train": {f"{k}.png": [] for k in range(9)}})
    command(monkeypatch, root, "--rows", 4)
    assert "... and 6 more lines: --rows 0 shows all" in capsys.readouterr().out


def test_one_file_and_nothing_at_all(tmp_path, monkeypatch, capsys):
    root = write(tmp_path / "set", {"train": {"a.png": [thing()]}})
    assert set(check(root / "train.json", slots=4).splits) == {"train"}
    (tmp_path / "void").mkdir()
    for path, said in ((tmp_path / "gone", "no such dataset"), (tmp_path / "void", "holds no COCO file")):
        assert command(monkeypatch, path) == 1
        assert said in capsys.readouterr().err
    assert command(monkeypatch, root, "--set", "rpn.nonsense=1") == 1
    assert "nonsense" in capsys.readouterr().err


def test_coco_tiny(tmp_path, monkeypatch, capsys):
    folder = SHARED / "data" / "coco" / "tiny"
    if not folder.is_dir():
        pytest.skip("COCO's photographs are not beside this checkout (shared/data/coco/tiny)")
    assert command(monkeypatch, folder, "--out", tmp_path / "page.html") == 0
    out = capsys.readouterr().out
    assert "0 errors, 0 warnings, 1 note" in out
    assert "of 135 objects" in out
