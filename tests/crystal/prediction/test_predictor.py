"""Prediction: coordinates come back to the original, every file is complete, one bad image does not stop the rest."""

import copy
import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from crystal.data.images import find_images, prepare
from crystal.data.outlines import encode_patch
from crystal.errors import CrystalError
from crystal.files import OutputError
from crystal.pages.plate import predict_command
from crystal.prediction.options import Predict
from crystal.prediction.predict import predict_folder
from crystal.prediction.predictor import Prediction, Predictor, _detect, to_original
from crystal.prediction.zooms import UNTRAINED
from maskrcnn_jax.image.tiles import View
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Detections
from tests.predict_on_two_devices import NETWORK, pictures
from tests.small import quick_rngs
from tests.tiff_files import tiff


@pytest.fixture(scope="module")
def predictor():
    """An untrained network all of whose detections count; compiled once for all tests."""
    return Predictor(MaskRCNN(NETWORK, rngs=quick_rngs()), batch_size=2)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path, height=60, width=90, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(height, width, seed))
    return path


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_encode_patch_equals_pycocotools():
    rng = np.random.default_rng(0)
    for height, width, top, left, ph, pw in [
        (5, 7, 0, 0, 5, 7),
        (9, 4, 6, 1, 3, 3),
        (8, 8, 2, 3, 4, 1),
        (3, 3, 1, 1, 1, 1),
    ]:
        patch = rng.random((ph, pw)) < 0.6
        frame = np.zeros((height, width), np.uint8)
        frame[top : top + ph, left : left + pw] = patch
        for own, full in ((patch, frame), (np.zeros_like(patch), np.zeros_like(frame))):
            assert encode_patch(own, top, left, height=height, width=width) == rle_tools.encode(np.asfortranarray(full))


def test_boxes_and_masks_of_a_wide_image_come_back_to_its_own_pixels():
    """A 300 x 100 image in a 64 x 128 letterbox: scale 0.427, 10 or 11 rows of padding above."""
    _, box = prepare(picture(100, 300), size=(64, 128), clahe=False)
    wanted = np.array([[30.0, 20.0, 90.0, 60.0], [0.0, 0.0, 300.0, 100.0], [5.0, 5.0, 9.0, 9.0]])
    detections = Detections(
        boxes=jnp.asarray(box.to_letterbox(wanted), jnp.float32),
        classes=jnp.ones(3, int),
        scores=jnp.array([0.9, 0.8, 0.7]),
        masks=jnp.stack([jnp.ones((28, 28)), jnp.ones((28, 28)).at[:, :14].set(0.0), jnp.zeros((28, 28))]),
        valid=jnp.array([True, True, True]),
    )
    frame = {"view": View(1, 0, 0, 100, 300), "height": 100, "width": 300}
    found = to_original(detections, box, **frame)
    np.testing.assert_allclose(found.boxes, wanted[:2], atol=1e-3)  # the third has no pixel
    assert [rle["size"] for rle in found.rles] == [[100, 300]] * 2
    masks = [rle_tools.decode(rle).astype(bool) for rle in found.rles]
    assert masks[0].sum() == 60 * 40
    assert masks[0][20:60, 30:90].all()
    assert masks[1][:, 151:].all()
    assert not masks[1][:, :149].any()
    assert len(to_original(detections._replace(valid=jnp.zeros(3, bool)), box, **frame).rles) == 0


def test_of_a_mask_in_two_parts_the_larger_is_the_object():
    """Half of the box, and two rows of cells at its other end."""
    _, box = prepare(picture(64, 64), size=(64, 64), clahe=False)
    detections = Detections(
        boxes=jnp.array([[4.0, 0.0, 32.0, 28.0]]),
        classes=jnp.array([1]),
        scores=jnp.array([0.9]),
        masks=jnp.ones((1, 28, 28)).at[:, 14:26].set(0.0),
        valid=jnp.ones(1, bool),
    )
    found = to_original(detections, box, view=View(1, 0, 0, 64, 64), height=64, width=64)
    wanted = np.zeros((64, 64), bool)
    wanted[:14, 4:32] = True
    np.testing.assert_array_equal(rle_tools.decode(found.rles[0]), wanted)


def test_an_unsure_mask_counts_less():
    """Cells of 0.6 and 0.8 in equal parts; drops keep their scores."""
    _, box = prepare(picture(50, 50), size=(64, 64), clahe=False)
    unsure = jnp.full((28, 28), 0.6).at[:14].set(0.8)
    detections = Detections(
        boxes=jnp.asarray(box.to_letterbox(np.array([[0.0, 0, 28, 28]] * 3)), jnp.float32),
        classes=jnp.array([1, 1, 2]),
        scores=jnp.array([0.9, 0.8, 0.7]),
        masks=jnp.stack([unsure, jnp.ones((28, 28)), unsure]),
        valid=jnp.ones(3, bool),
    )
    found = to_original(detections, box, view=View(1, 0, 0, 50, 50), height=50, width=50, whole_only=[2])
    np.testing.assert_allclose(found.scores, [0.9 * 0.7**2, 0.8, 0.7], rtol=1e-6)


def test_drops_count_in_the_whole_image_alone():
    """A tile inside a drop sees a part of it, and would outline that."""
    detections = Detections(
        boxes=jnp.array([[5.0, 5.0, 30.0, 30.0], [4.0, 4.0, 40.0, 40.0]]),
        classes=jnp.array([1, 2]),
        scores=jnp.array([0.9, 0.8]),
        masks=jnp.ones((2, 28, 28)),
        valid=jnp.array([True, True]),
    )
    _, box = prepare(picture(50, 50), size=(64, 64), clahe=False)
    for zoom, classes in ((1.0, [1, 2]), (2.0, [1])):
        view = View(zoom, 0, 0, 50, 50)
        found = to_original(detections, box, view=view, height=100, width=100, whole_only=[2])
        assert found.classes.tolist() == classes


def test_results_come_in_order_and_do_not_depend_on_the_batch(predictor):
    images = [picture(40 + 20 * i, 150 - 20 * i, i) for i in range(5)]  # the third batch is padded
    together = list(predictor(images))
    traces = _detect._cache_size()
    assert [p.rles[0]["size"] for p in together] == [list(i.shape[:2]) for i in images]
    for image, found in zip(images, together, strict=True):
        [alone] = predictor([image])
        np.testing.assert_allclose(alone.boxes, found.boxes, atol=1e-2)
        assert found.boxes.min() >= 0
        assert (found.boxes.max(0) <= np.tile(image.shape[1::-1], 2)).all()
        assert (np.diff(found.scores) <= 0).all()
        assert len(found.boxes) == len(found.scores) == len(found.classes) == len(found.rles) > 0
    assert list(predictor([])) == []
    image = dataclasses.replace(predictor.config.image, clahe=False)
    config = dataclasses.replace(predictor.config, image=image)
    others = Predictor(MaskRCNN(config, rngs=quick_rngs(1)), batch_size=2)
    assert list(others(images))
    assert _detect._cache_size() == traces > 0  # one trace whatever the images, the weights and CLAHE


def test_two_devices_share_a_batch(predictor):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-m", "tests.predict_on_two_devices"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for (boxes, scores), alone in zip(found, predictor(pictures()), strict=True):
        np.testing.assert_allclose(boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(scores, alone.scores, atol=1e-5)


def test_a_tile_is_seen_as_the_same_part_alone(predictor):
    """At zoom 2 what is kept is what the network finds in that part of the image, in the image's own pixels."""
    image = dataclasses.replace(predictor.config.image, clahe=False)  # which looks beyond the tile
    model = MaskRCNN(dataclasses.replace(predictor.config, image=image), rngs=quick_rngs())
    pixels = picture(200, 300)
    close, alone = (Predictor(model, batch_size=2, zoom=zoom) for zoom in ((1.0, 2.0), (1.0,)))
    traces = _detect._cache_size()
    [both], [whole] = close([pixels]), alone([pixels])
    tiles = [view for view in close.views(200, 300) if view.zoom == 2]
    crops = [pixels[v.top : v.top + v.height, v.left : v.left + v.width] for v in tiles]
    parts = [found.boxes + np.tile(v.box[:2], 2) for v, found in zip(tiles, alone(crops), strict=True)]
    for zoom, boxes in ((1, whole.boxes), (2, np.concatenate(parts))):
        mine = both.boxes[both.zooms == zoom]
        assert len(mine)
        assert (np.abs(mine[:, None] - boxes).max(2).min(1) < 0.01).all()
    assert (both.scores[both.zooms == 2] <= UNTRAINED).all()
    assert {tuple(rle["size"]) for rle in both.rles} == {(200, 300)}
    assert _detect._cache_size() == traces > 0


def test_full_views_are_told(predictor, tmp_path):
    """All slots of the untrained network are filled, so that lower scores than the lowest of them may be missing."""
    limit = predictor.config.detection.max_detections
    [found] = predictor([picture(60, 90)])
    assert len(found.scores) == limit
    assert found.complete_from >= found.scores.min() > 0
    paths = [write(tmp_path / "a.png")]
    full = [predict_folder(predictor, paths, tmp_path / "out", score_threshold=s).full for s in (0.0, 1.0)]
    assert full == [1, 0]


def test_an_error_in_the_source_is_raised(predictor):
    def images():
        yield picture(30, 30)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(predictor(images()))


def test_files_agree_with_each_other(predictor, tmp_path):
    paths = [write(tmp_path / "in" / f"drop{i}.png", 60, 90 + 30 * i, i) for i in range(3)]
    out, seen = tmp_path / "out", []
    summary = predict_folder(predictor, paths, out, score_threshold=0.0, labelme=True, progress=seen.append)
    assert seen == paths
    assert summary.done == 3
    assert summary.failed == summary.edited == []
    assert files_below(out) == [
        "crystals.csv",
        "drops.csv",
        *(f"labelme/drop{i}.json" for i in range(3)),
        *(f"overlays/drop{i}.jpg" for i in range(3)),
        "predictions.json",
    ]
    coco = COCO(str(out / "predictions.json"))
    assert [i["file_name"] for i in coco.dataset["images"]] == ["drop0.png", "drop1.png", "drop2.png"]
    assert [(i["height"], i["width"]) for i in coco.dataset["images"]] == [(60, 90), (60, 120), (60, 150)]
    assert [c["name"] for c in coco.dataset["categories"]] == ["crystal"]
    annotations = coco.dataset["annotations"]
    assert len(coco.loadRes(copy.deepcopy(annotations)).anns) == summary.crystals
    with open(out / "crystals.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(annotations)
    for row, annotation in zip(rows, annotations, strict=True):  # every score is listed, in the same order
        assert annotation["category_id"] == 7
        assert set(annotation) >= {"id", "image_id", "score", "bbox", "area", "segmentation", "iscrowd"}
        mask = coco.annToMask(annotation).astype(bool)
        assert int(row["area_px"]) == annotation["area"] == mask.sum()
        ys, xs = np.nonzero(mask)
        assert float(row["centre_x"]) == pytest.approx(xs.mean() + 0.5, abs=0.01)
        assert float(row["centre_y"]) == pytest.approx(ys.mean() + 0.5, abs=0.01)
        x, y, w, h = annotation["bbox"]
        corners = [float(row[k]) for k in ("x1", "y1", "x2", "y2")]
        np.testing.assert_allclose(corners, [x, y, x + w, y + h], atol=0.011)
        assert float(row["length_px"]) >= float(row["width_px"]) >= 1
        assert float(row["length_px"]) * float(row["width_px"]) >= mask.sum() - 1
    for i in range(3):
        overlay = cv2.imread(str(out / "overlays" / f"drop{i}.jpg"))
        assert overlay.shape == (60, 90 + 30 * i, 3)


def test_bad_files_are_listed_and_the_rest_is_done(predictor, tmp_path):
    good = [write(tmp_path / f"good{i}.jpg", seed=i) for i in range(3)]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    missing = tmp_path / "missing.png"
    seen = []
    summary = predict_folder(predictor, [bad, good[0], missing, *good[1:]], tmp_path / "out", progress=seen.append)
    assert summary.done == 3
    assert [path for path, _ in summary.failed] == [bad, missing]
    assert all(path.name in reason for path, reason in summary.failed)
    assert sorted(seen) == sorted([bad, missing, *good])
    dataset = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in dataset["images"]] == [path.name for path in good]
    assert "missing" not in str(files_below(tmp_path / "out"))


def test_the_sharpest_page_of_a_stack_is_predicted_and_said(predictor, tmp_path):
    sharp = picture(60, 90)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    write(tmp_path / "a.png")
    stack = tmp_path / "b.tif"
    stack.write_bytes(tiff(blurred, sharp, photometric=2))
    (tmp_path / "c.heic").write_bytes(b"")
    paths = find_images([tmp_path])
    said = {}
    for page in ("sharpest", "first", 2, 3):
        summary = predict_folder(predictor, paths, tmp_path / f"out {page}", score_threshold=0.0, page=page)
        said[page] = (summary.done, summary.stacks, [path.name for path, _ in summary.failed])
        written = json.loads((tmp_path / f"out {page}" / "predictions.json").read_text())
        said[page] += (len(written["images"]),)
    assert said["sharpest"] == (2, 1, ["c.heic"], 2)
    assert said["first"] == (2, 0, ["c.heic"], 2)
    assert said[2] == said["first"]
    assert said[3] == (1, 0, ["b.tif", "c.heic"], 1)
    drawn = [cv2.imread(str(tmp_path / f"out {page}" / "overlays" / "b.jpg")) for page in ("sharpest", 2, "first")]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("foreign", ["overlays/mine.jpg", "crystals.csv", "plate.html", "predictions.json"])
def test_nobody_elses_files_are_replaced(predictor, tmp_path, foreign):
    """Whose overlays are not ours may be the images themselves."""
    image = write(tmp_path / "plate" / "a.png")
    (tmp_path / "plate" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "plate" / foreign).write_text("years of work")
    with pytest.raises(OutputError, match="choose another"):
        predict_folder(predictor, [image], tmp_path / "plate")
    with pytest.raises(OutputError, match="choose another"):
        predict_command(Predict(weights=tmp_path / "no run", images=(tmp_path,), out=tmp_path / "plate"))
    assert sorted(files_below(tmp_path / "plate")) == sorted(["a.png", foreign])
    assert (tmp_path / "plate" / foreign).read_text() == "years of work"


def test_names_of_any_bytes_and_signs_cost_no_batch(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    names = ["x[red]", "晶体", "tab\tline\n", os.fsdecode(b"latin-\xe4")]
    for name in names:
        (tmp_path / "in" / f"{name}.png").write_bytes(write(tmp_path / "a.png").read_bytes())
    paths = find_images([tmp_path / "in"])
    summary = predict_folder(predictor, paths, tmp_path / "out", score_threshold=0.0, labelme=True)
    assert (summary.done, summary.failed) == (len(names), [])
    with open(tmp_path / "out" / "crystals.csv", newline="", encoding="utf-8") as file:
        listed = {row["image"] for row in csv.DictReader(file)}
    assert {"x[red].png", "晶体.png", "tab\tline\n.png", "latin-\\udce4.png"} == listed
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {image["file_name"] for image in written["images"]} == {path.name for path in paths}
    assert len(list((tmp_path / "out" / "labelme").iterdir())) == len(names)


@pytest.mark.parametrize(
    ("options", "message"), [({"images": ()}, "names nothing"), ({"score": 0.505}, "at most two decimals")]
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(CrystalError, match=message):
        Predict(**{"images": (tmp_path,), "out": tmp_path} | options)


def test_nothing_found_is_still_a_complete_result(predictor, tmp_path):
    summary = predict_folder(predictor, [write(tmp_path / "a.png")], tmp_path / "out", score_threshold=1.01)
    assert (summary.done, summary.crystals) == (1, 0)
    assert len((tmp_path / "out" / "crystals.csv").read_text().splitlines()) == 1
    assert (tmp_path / "out" / "overlays" / "a.jpg").exists()


def test_an_image_without_any_detection(predictor, tmp_path, monkeypatch):
    nothing = Prediction(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [], np.zeros(0))
    monkeypatch.setattr("crystal.prediction.predictor.to_original", lambda *_, **__: nothing)
    predict_folder(predictor, [write(tmp_path / "a.png")], tmp_path / "out", labelme=True)
    assert COCO(str(tmp_path / "out" / "predictions.json")).dataset["annotations"] == []
    assert json.loads((tmp_path / "out" / "labelme" / "a.json").read_text())["shapes"] == []


def test_an_earlier_result_is_replaced_only_by_a_complete_one(predictor, tmp_path, monkeypatch):
    out = tmp_path / "out"
    old, new = write(tmp_path / "old.png"), write(tmp_path / "new.png", seed=3)
    predict_folder(predictor, [old], out)
    before = {name: (out / name).read_bytes() for name in files_below(out)}

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert predict_folder(predictor, [bad], out).done == 0  # nothing could be read
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full_disk)
        with pytest.raises(OutputError, match=r"no space left.*free some space"):
            predict_folder(predictor, [new], out)
    with monkeypatch.context() as patch:
        patch.setattr("crystal.prediction.picture_files.draw_outlines", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_folder(predictor, [new], out)
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before

    predict_folder(predictor, [new], out)
    assert files_below(out) == ["crystals.csv", "drops.csv", "overlays/new.jpg", "predictions.json"]
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []


def full_disk(path, data):
    raise OSError(28, os.strerror(28), str(path))


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_folder_that_cannot_be_made(predictor, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        predict_folder(predictor, [write(tmp_path / "a.png")], tmp_path / "file" / "out")


def test_our_own_overlays_are_no_images(predictor, tmp_path):
    image = write(tmp_path / "a.png")
    predict_folder(predictor, [image], tmp_path)
    summary = predict_folder(predictor, [image, tmp_path / "overlays" / "a.jpg"], tmp_path)
    assert summary.done == 1
    assert files_below(tmp_path) == ["a.png", "crystals.csv", "drops.csv", "overlays/a.jpg", "predictions.json"]
