"""COCO files as they are written, as they are found, and as they are broken."""

import json
import re
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from crystal.data.coco_file import DatasetError
from crystal.data.dataset import Instance, box_mask, load_split
from crystal.data.loader import MASK_SIZE
from crystal.data.problems import Effect, Problem
from crystal.data.segmentation import draw_pixels
from crystal.drops.dataset import render_dataset
from maskrcnn_jax.roi.masks import paste

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
HEIGHT, WIDTH = 40, 60
SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 30.0, 10.0, 30.0]]


def annotation(number=1, **changes) -> dict:
    fields = {
        "id": number,
        "image_id": 1,
        "category_id": 3,
        "segmentation": SQUARE,
        "bbox": [10, 10, 10, 20],
        "iscrowd": 0,
    }
    return fields | changes


def document(*annotations, images=None, categories=None) -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}] if images is None else images,
        "annotations": list(annotations),
        "categories": categories or [{"id": 7, "name": "loop"}, {"id": 3, "name": "crystal"}],
    }


def put(root: Path, coco, *, at="train.json", folder="train/images", names=("a.png",)) -> Path:
    for path in (root / at, *(root / folder / name for name in names)):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / at).write_text(coco if isinstance(coco, str) else json.dumps(coco))
    for name in names:
        cv2.imwrite(str(root / folder / name), np.zeros((HEIGHT, WIDTH), np.uint8))
    return root


def disc(height=HEIGHT, width=WIDTH, centre=(25, 18), radius=9) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def packed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def unpacked(mask: np.ndarray) -> dict:
    flat = np.r_[0, mask.T.ravel().astype(int), 0 if mask.T.ravel()[-1] else 1]
    counts = np.diff(np.r_[0, np.flatnonzero(np.diff(flat))])
    counts = counts.tolist()
    if sum(counts) < mask.size:
        counts.append(mask.size - sum(counts))
    return {"size": list(mask.shape), "counts": counts}


def only(root: Path, *annotations) -> tuple:
    """The instances and the problems' texts of a one-image split."""
    split = load_split(put(root, document(*annotations)), "train")
    return split.records[0].instances, [str(problem) for problem in split.problems]


# --- what is sound ----------------------------------------------------------------------------------------------------


def test_plain_split(tmp_path):
    split = load_split(put(tmp_path, document(annotation())), "train")
    assert split.categories == ((0, "background"), (3, "crystal"), (7, "loop"))
    assert split.problems == ()
    assert split.source == tmp_path / "train.json"
    (record,) = split.records
    assert record[:5] == (1, tmp_path / "train/images/a.png", "a.png", HEIGHT, WIDTH)
    assert record.instances == (Instance(1, (10, 10, 20, 30), SQUARE, False, 1),)


def test_category_gaps_and_listed_background(tmp_path):
    categories = [{"id": 90, "name": "b"}, {"id": 0, "name": "_background_"}, {"id": 13, "name": "a"}]
    coco = document(annotation(1, category_id=90), annotation(2, category_id=0), categories=categories)
    split = load_split(put(tmp_path, coco), "train")
    assert split.categories == ((0, "background"), (13, "a"), (90, "b"))
    assert [i.category for i in split.records[0].instances] == [2]
    assert split.problems == (Problem("a.png", 2, "its category is background", Effect.LEFT_OUT),)


@pytest.mark.parametrize("write", [packed, unpacked])
@pytest.mark.parametrize(
    "mask", [disc(), disc(centre=(0, 0)), disc(centre=(59, 39), radius=15), np.ones((40, 60), bool)]
)
def test_run_lengths(tmp_path, write, mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    (crowd,), problems = only(tmp_path, annotation(segmentation=write(mask), bbox=None, iscrowd=1))
    assert crowd.crowd
    assert np.array_equal(draw_pixels(crowd.segmentation, HEIGHT, WIDTH).astype(bool), mask)
    assert crowd.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert problems == ["a.png: annotation 1: its bbox does not fit its outline; the outline's extent is used"]


def test_several_parts_are_united(tmp_path):
    second = [40.0, 5.0, 50.0, 5.0, 45.0, 15.0]
    (one,), problems = only(tmp_path, annotation(segmentation=[*SQUARE, second], bbox=[10, 5, 40, 25]))
    assert not problems
    assert one.box == (10, 5, 50, 30)
    mask = draw_pixels(one.segmentation, HEIGHT, WIDTH).astype(bool)
    assert mask[15, 15]
    assert mask[7, 45]
    assert not mask[15, 30]


def test_a_flat_list_is_one_part(tmp_path):
    (one,), problems = only(tmp_path, annotation(segmentation=SQUARE[0]))
    assert (one.segmentation, problems) == (SQUARE, [])


def test_an_image_without_objects_is_kept(tmp_path):
    assert load_split(put(tmp_path, document()), "train").records[0].instances == ()


@pytest.mark.parametrize(
    ("at", "folder", "dataset", "split"),
    [
        ("train.json", "train/images", "", "train"),
        ("train.json", "train", "", "train"),
        ("train.json", "images", "", "train"),
        ("train.json", ".", "", "train"),
        ("annotations/train.json", "images/train", "", "train"),
        ("annotations/instances_val2017.json", "val2017", "", "val"),
        ("instances_val2017.json", "val2017", "", "val"),
        ("instances_val2017.json", "val2017", "instances_val2017.json", "anything"),
        ("somewhere/else.json", "somewhere/pictures", "somewhere/else.json", "pictures"),
    ],
)
def test_layouts(tmp_path, at, folder, dataset, split):
    put(tmp_path, document(annotation()), at=at, folder=folder)
    got = load_split(tmp_path / dataset, split)
    assert got.records[0].path.samefile(tmp_path / folder / "a.png")


def test_backslashes_and_folders_in_file_names(tmp_path):
    images = [{"id": 1, "file_name": "plate\\a.png", "height": HEIGHT, "width": WIDTH}]
    put(tmp_path, document(images=images), folder="train/images/plate")
    assert load_split(tmp_path, "train").records[0].path == tmp_path / "train/images/plate/a.png"


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form(tmp_path, forms):
    in_json, on_disk = (unicodedata.normalize(form, "größe/Krümel é.png") for form in forms)
    assert in_json != on_disk
    images = [{"id": 1, "file_name": in_json, "height": HEIGHT, "width": WIDTH}]
    put(tmp_path, document(annotation(), images=images), names=(on_disk,), folder="train/images")
    assert load_split(tmp_path, "train").records[0].path == tmp_path / "train/images" / on_disk


# --- annotations at fault are left out and listed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 1, 5, 5]], "fewer than three points"),
        ([[1, 1, 5, 5, 9, 9]], "no area"),
        ([[3, 3, 3, 3, 3, 3]], "no area"),
        ([[70, 10, 80, 10, 80, 20]], "outside the image"),
        ([[-9, -9, -1, -9, -5, -1]], "outside the image"),
        ([[1e9, 1e9, 1e9 + 5, 1e9, 1e9, 1e9 + 5]], "outside the image"),
        ([[1, 2, 3, 4, 5]], "x, y pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([[1, 2, 3, 4, 5, 1e300]], "finite"),
        ([[1, 2, "a", 4, 5, 6]], "other than numbers"),
        ([[1, 2, [3], 4, 5, 6]], "other than numbers"),
        ([], "no outline"),
        (None, "no outline"),
        ("xyz", "no outline"),
        ({}, "for an image of size None"),
        ({"size": [60, 40], "counts": [0, 2400]}, r"of size \[60, 40\]"),
        ({"size": [40, 60], "counts": [0, 2401]}, "do not add up"),
        ({"size": [40, 60], "counts": [-1, 2401]}, "do not add up"),
        ({"size": [40, 60], "counts": [2400]}, "empty"),
        ({"size": [40, 60], "counts": 5}, "neither"),
        ({"size": [40, 60], "counts": [1.5, 2398.5]}, "neither"),
        ({"size": [40, 60], "counts": ""}, "unpacked"),
        ({"size": [40, 60], "counts": "~~~"}, "unpacked"),
        ({"size": [40, 60], "counts": "ooooooooooo0"}, "unpacked"),
        ({"size": [40, 60], "counts": "é1"}, "unpacked|add up"),
    ],
)
def test_useless_outlines(tmp_path, segmentation, said):
    """Where its box says where the object is, it is ignored there, and never background."""
    bad = annotation(4, segmentation=segmentation)
    (region, sound), (problem,) = only(tmp_path, bad, annotation(5))
    assert (region.annotation_id, region.crowd, region.box) == (4, True, (10, 10, 20, 30))
    assert (sound.annotation_id, sound.crowd) == (5, False)
    assert problem.startswith("a.png: annotation 4: ")
    assert problem.endswith(f"; {Effect.PLACE_IGNORED.words}")
    assert re.search(said, problem)


@pytest.mark.parametrize(
    ("segmentation", "place"),
    [
        ([[1, 1, 5, 6]], (1, 1, 5, 6)),
        ([5, 6, 5, 6, 5, 6], (4.5, 5.5, 5.5, 6.5)),
        ([[1, 1, 5, 5], [40, 30]], (1, 1, 40, 30)),
        ([[70, 10, 80, 10, 80, 20]], None),
        ([[1, 2, 3, 4, 5]], None),
        ([[1, 2, "a", 4, 5, 6]], None),
        ([[1, 2, 3, 4, 5, float("nan")]], None),
        ({"size": [60, 40], "counts": [0, 2400]}, None),
        (None, None),
    ],
)
def test_useless_outlines_without_a_box(tmp_path, segmentation, place):
    instances, (problem,) = only(tmp_path, annotation(4, segmentation=segmentation, bbox=[0, 0, 0, 0]))
    assert [(i.crowd, i.box) for i in instances] == ([(True, place)] if place else [])
    effect = Effect.PLACE_IGNORED if place else Effect.LEFT_OUT
    assert problem.endswith(f"; {effect.words}")


@pytest.mark.parametrize("write", [float, str])
def test_ids_as_other_programs_write_them(tmp_path, write):
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    categories = [{"id": write(3) if write is float else "3", "name": "crystal"}]
    for number in ((1, write(1)), (write(1), 1), (write(1), write(1))):
        images[0]["id"] = number[0]
        coco = document(annotation(image_id=number[1]), images=images, categories=categories)
        split = load_split(put(tmp_path, coco), "train")
        assert len(split.records[0].instances) == 1
        assert split.problems == ()


def test_a_bad_part_does_not_take_the_others_along(tmp_path):
    (one,), problems = only(tmp_path, annotation(segmentation=[[1, 1, 2, 2], *SQUARE]))
    assert one.segmentation == SQUARE
    assert problems == [
        "a.png: annotation 1: the polygon has fewer than three points; a part was left out; the rest is used"
    ]


def test_partly_outside_is_clipped(tmp_path):
    far = 1e9  # pycocotools alone would try to set aside gigabytes for this edge
    outline = [[50, 10, far, 10, far, 20, 50, 20]]
    (one,), problems = only(tmp_path, annotation(segmentation=outline, bbox=[50, 10, 10, 10]))
    assert problems == ["a.png: annotation 1: the polygon reaches outside the image; what lies inside is used"]
    assert one.box == (50, 10, 60, 20)
    mask = draw_pixels(one.segmentation, HEIGHT, WIDTH).astype(bool)
    assert mask[10:20, 50:].all()
    assert mask.sum() == 100


def test_a_wrong_box_gives_way_to_the_outline(tmp_path):
    for bbox in ([10, 10, 20, 30], [0, 0, -1, 5], "no", [1, 2], [float("nan")] * 4, None):
        (one,), problems = only(tmp_path, annotation(bbox=bbox))
        assert one.box == (10, 10, 20, 30)
        assert len(problems) == 1
    (near,), problems = only(tmp_path, annotation(bbox=[9, 9.5, 11.2, 21]))
    assert near.box == (9, 9.5, 20.2, 30.5)
    assert not problems


def test_annotation_of_no_image(tmp_path):
    instances, problems = only(tmp_path, annotation(8, image_id=99), annotation(9, image_id=[1]))
    assert instances == ()
    assert problems[0] == f"train.json: annotation 8: no image has the id 99; {Effect.LEFT_OUT.words}"
    assert len(problems) == 2


# --- datasets that cannot be used -------------------------------------------------------------------------------------


def refuse(root: Path, pattern: str, split="train") -> None:
    with pytest.raises(DatasetError, match=pattern) as raised:
        load_split(root, split)
    assert "\n" not in str(raised.value)
    assert str(root) in str(raised.value)


def test_missing(tmp_path):
    refuse(tmp_path / "gone", "no such dataset; render one")
    refuse(tmp_path, r"no annotations for the split 'train'; .*looked for train\.json")
    put(tmp_path, document(images=[{"id": 1, "file_name": n, "height": 4, "width": 4} for n in ["x.png"]]))
    refuse(tmp_path, r"x\.png: there is no such image \(looked in .*copy it there")


@pytest.mark.parametrize("text", ["", "{", "\x00", "[1, 2", '{"images": ', "[" * 100_000])
def test_malformed_json(tmp_path, text):
    refuse(put(tmp_path, text), "(not valid JSON|nested too deeply).*write it again")


@pytest.mark.parametrize(
    "text", ["[]", "3", "{}", '{"images": 3}', '{"images": [], "annotations": [1], "categories": []}']
)
def test_json_of_something_else(tmp_path, text):
    refuse(put(tmp_path, text), "has no list of (images|annotations); it must be a COCO")


def test_wrong_fields(tmp_path):
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    for change in (
        {"id": "one"},
        {"id": 1.5},
        {"id": True},
        {"height": None},
        {"height": 0},
        {"width": -4},
        {"file_name": 3},
        {"id": 10**30},
    ):
        refuse(put(tmp_path, document(images=[image | change])), "image")
    refuse(put(tmp_path, document(images=[image | {"height": 10**5, "width": 10**5}])), "states 100000 x 100000")
    refuse(put(tmp_path, document(images=[image, image])), "two images have the id 1")
    for category in (4, "crystal", None, [3], float("nan")):
        refuse(
            put(tmp_path, document(annotation(5, category_id=category))), "annotation 5: the category .*add it there"
        )
    refuse(put(tmp_path, document(categories=[{"id": 0, "name": "background"}])), "no categories besides background")
    assert load_split(put(tmp_path, document(images=[image | {"height": 40.0}])), "train").records[0].height == 40


def test_mutated_files_end_in_records_or_a_dataset_error(tmp_path):
    text = json.dumps(document(annotation(1), annotation(2, segmentation=packed(disc()), iscrowd=1)))
    rng = np.random.default_rng(0)
    pieces = ["null", "-1", "1e999", "{}", "[]", '"x"', "NaN", "99999999999999999999", "", "]", "0"]
    put(tmp_path, text)
    read, refused = 0, []
    for _ in range(300):
        start = int(rng.integers(len(text)))
        (tmp_path / "train.json").write_text(
            text[:start] + str(rng.choice(pieces)) + text[start + int(rng.integers(6)) :]
        )
        try:
            split = load_split(tmp_path, "train")
        except DatasetError as error:
            refused.append(str(error))
            continue
        read += 1
        for record in split.records:
            for instance in record.instances:
                assert box_mask(instance, record.height, record.width, 14).shape == (14, 14)
    assert read > 10
    assert len(refused) > 10
    assert all(str(tmp_path) in sentence for sentence in refused)


# --- masks relative to boxes ------------------------------------------------------------------------------------------


def test_box_mask_by_hand():
    square = Instance(1, (0.0, 0.0, 4.0, 2.0), [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]], False, 1)
    assert box_mask(square, 10, 10, 2).tolist() == [[1, 0], [1, 0]]
    assert box_mask(square, 10, 10, 4).tolist() == [[1, 1, 0, 0]] * 4
    shifted = square._replace(box=(1.0, 0.0, 4.0, 2.0))  # cells 0.75 px wide, the object ends at 1 px: 3/4, 1/4 are cut
    assert box_mask(shifted, 10, 10, 4)[0].tolist() == [1, 0, 0, 0]


def test_box_mask_is_the_mean_over_each_cell():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((30, 30)) < 0.5
        x1, y1 = rng.uniform(0, 10, 2)
        x2, y2 = rng.uniform(15, 30, 2)
        fine = 40  # sub-pixels: a slow mean that knows nothing of sums
        size = 7
        got = box_mask(Instance(1, (x1, y1, x2, y2), packed(mask), False, 1), 30, 30, size)
        at = (np.arange(size * fine) + 0.5) / (size * fine)
        rows, columns = (y1 + at * (y2 - y1)).astype(int), (x1 + at * (x2 - x1)).astype(int)
        mean = mask[np.ix_(rows, columns)].reshape(size, fine, size, fine).mean((1, 3))
        clear = np.abs(mean - 0.5) > 0.03
        assert np.array_equal(got[clear], mean[clear] > 0.5)


def reconstruction(instance: Instance, height: int, width: int, size: int) -> float:
    mask = draw_pixels(instance.segmentation, height, width).astype(bool)
    cells = box_mask(instance, height, width, size).astype(np.float64)
    back = paste(cells, np.array(instance.box), height=height, width=width)
    return float((back & mask).sum() / (back | mask).sum())


def test_reconstruction_of_compact_objects():
    """Convex polygons, 12 to 56 pixels across: even 56 cells a side keep them."""
    rng = np.random.default_rng(3)
    kept = []
    for _ in range(200):
        across = rng.uniform(12, 56)
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
        points = 40 + across / 2 * np.stack([np.cos(angle), rng.uniform(0.5, 1) * np.sin(angle)], 1)
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        if min(x2 - x1, y2 - y1) < 8:
            continue
        kept.append(reconstruction(Instance(1, (x1, y1, x2, y2), [points.ravel().tolist()], False, 1), 80, 80, 56))
    print(f"compact objects: mean {np.mean(kept):.4f}, least {np.min(kept):.4f}")
    assert np.mean(kept) >= 0.98
    assert np.quantile(kept, 0.05) >= 0.97


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drops") / "set"
    render_dataset(out, train=8, val=0, seed=4, scenes="simple", workers=1)
    return out


def test_reconstruction_on_the_rendered_set(rendered):
    """Every object over 12 pixels, at the image's own resolution, needles across the diagonal included."""
    split = load_split(rendered, "train")
    found = {56: [], MASK_SIZE: []}
    for record in split.records:
        for instance in record.instances:
            x1, y1, x2, y2 = instance.box
            if not instance.crowd and max(x2 - x1, y2 - y1) > 12:
                for size, kept in found.items():
                    kept.append(reconstruction(instance, record.height, record.width, size))
    for size, kept in found.items():
        least, hundredth = np.min(kept), np.quantile(kept, 0.01)
        print(f"{len(kept)} rendered objects at {size}: least {least:.4f}, 1 % under {hundredth:.4f}")
    assert len(found[MASK_SIZE]) > 100
    assert np.min(found[MASK_SIZE]) >= 0.97
    assert np.quantile(found[MASK_SIZE], 0.05) >= 0.99
    assert np.min(found[56]) < 0.97  # the set holds objects that a coarser mask would not keep


def test_rendered_set_is_read_as_pycocotools_reads_it(rendered, capsys):
    split = load_split(rendered, "train")
    coco = COCO(str(split.source))
    assert split.problems == ()
    assert split.categories == ((0, "background"), (1, "crystal"))
    assert [r.image_id for r in split.records] == sorted(coco.imgs)
    for record in split.records[:4]:
        assert len(record.instances) == len(coco.getAnnIds(imgIds=record.image_id))
        for instance in record.instances:
            truth = coco.anns[instance.annotation_id]
            assert np.array_equal(
                draw_pixels(instance.segmentation, record.height, record.width).astype(bool),
                coco.annToMask(truth).astype(bool),
            )
            assert instance.crowd == bool(truth["iscrowd"])
            x, y, w, h = truth["bbox"]
            assert instance.box == (x, y, x + w, y + h)


def test_coco_tiny(capsys):
    folder = SHARED / "data" / "coco" / "tiny"
    if not folder.is_dir():
        pytest.skip("COCO's photographs are not beside this checkout (shared/data/coco/tiny)")
    split = load_split(folder, "val")
    coco = COCO(str(split.source))
    assert len(split.records) == 6
    assert len(split.categories) == 81
    assert split.categories[12] == (13, "stop sign")
    assert sum(len(r.instances) for r in split.records) == 136
    assert sum(i.crowd for r in split.records for i in r.instances) == 1
    assert split.problems == ()
    for record in split.records:
        for instance in record.instances:
            truth = coco.annToMask(coco.anns[instance.annotation_id]).astype(bool)
            assert np.array_equal(draw_pixels(instance.segmentation, record.height, record.width).astype(bool), truth)
