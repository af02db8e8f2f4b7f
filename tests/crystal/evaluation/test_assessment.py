"""What evaluation hands to pycocotools: the checked split, since the file itself can end the process."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from crystal.data.coco_file import DatasetError
from crystal.data.dataset import load_split
from crystal.data.segmentation import draw_pixels
from crystal.errors import CrystalError
from crystal.evaluation import assessment
from crystal.evaluation.assessment import coco_truth, evaluate_command, truth_of
from crystal.evaluation.metrics import coco_metrics
from crystal.evaluation.options import Evaluate
from crystal.files import OutputError
from crystal.prediction.predictor import Prediction
from crystal.training import train
from crystal.training.config import TrainConfig
from maskrcnn_jax.image.tiles import View
from tests.small import small_model

FAR = [30.0, 5.0, 1e9, 5.0, 1e9, 30.0, 30.0, 30.0]  # pycocotools alone crashes on this edge


def test_the_checked_split_is_what_is_measured(tmp_path):
    """A clipped outline, a useless one, a region to ignore, a wrong area and a crowd: found with an AP of 1."""
    (tmp_path / "val" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "val/images/a.png"), np.zeros((60, 80, 3), np.uint8))
    crowd = {"size": [60, 80], "counts": [0, 600, 4200]}
    outlines = [[FAR], [[1, 1, 9, 9]], [[5, 35, 15, 35, 15, 55, 5, 55]], crowd]
    coco = {
        "images": [{"id": 7, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 13, "segmentation": outline, "iscrowd": int(outline is crowd)}
            | ({} if k else {"area": -5})
            for k, outline in enumerate(outlines)
        ],
        "categories": [{"id": 13, "name": "crystal"}, {"id": 2, "name": "loop"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    split = load_split(tmp_path, "val")
    (record,) = split.records
    assert len(record.instances) == 4
    truth = truth_of(record)
    for instance, mask in zip(record.instances, truth["masks"], strict=True):
        assert np.array_equal(
            coco_mask.decode(mask).astype(bool), draw_pixels(instance.segmentation, 60, 80).astype(bool)
        )
    checked = coco_truth(split, [truth])
    assert [a["id"] for a in checked["annotations"]] == [1, 2, 3, 4]
    assert [a["area"] for a in checked["annotations"]] == [50 * 25, 64, 200, 600]
    results = [
        {"image_id": 7, "category_id": 13, "score": 0.9, "segmentation": mask}
        for mask, crowded in zip(truth["masks"], truth["crowd"], strict=True)
        if not crowded
    ]
    numbers = coco_metrics(checked, results, kind="segm")
    assert numbers["AP"] == pytest.approx(1)


MODEL = ((0, "background"), (1, "crystal"), (2, "loop"))
SQUARES = {"crystal": [[5, 5, 15, 5, 15, 15, 5, 15]], "loop": [[40, 20, 70, 20, 70, 50, 40, 50]]}
CATEGORIES = {
    "the model's": {"crystal": 1, "loop": 2},
    "another order": {"loop": 1, "crystal": 2},
    "other ids": {"crystal": 9, "loop": 4},
    "more": {"a": 3, "loop": 4, "crystal": 11, "z": 12},
    "letters": {"Loop": 1, "CRYSTAL": 2},
}


def write_val(folder, ids, *objects):
    """val.json with an image that shows these objects."""
    (folder / "val" / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "val/images/a.png"), np.zeros((60, 80, 3), np.uint8))
    by_name = {name.lower(): number for name, number in ids.items()}
    document = {
        "images": [{"id": 7, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": [
            {"id": k, "image_id": 7, "category_id": by_name[name], "segmentation": SQUARES[name], "iscrowd": 0}
            for k, name in enumerate(objects, 1)
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    (folder / "val.json").write_text(json.dumps(document))


class Fixed:
    """Stands in for `Predictor`: a crystal and a loop where they are, and a crystal where nothing is."""

    def __init__(self, model, *, zoom=(1.0,)):
        self.config = model.config

    def views(self, height, width):
        return [View(zoom, 0, 0, height, width) for zoom in (1.0, 2.0)]

    def __call__(self, images):
        outlines = [*SQUARES.values(), [[60, 50, 79, 50, 79, 59, 60, 59]]]
        rles = [coco_mask.merge(coco_mask.frPyObjects(outline, 60, 80)) for outline in outlines]
        boxes = np.array([[5, 5, 15, 15], [40, 20, 70, 50], [60, 50, 79, 59]], float)
        for _ in images:
            yield Prediction(boxes, np.array([0.9, 0.8, 0.95]), np.array([1, 2, 1]), rles, np.ones(3))


@pytest.fixture
def fixed(monkeypatch):
    model = small_model()
    model.config = dataclasses.replace(model.config, classes=MODEL)
    monkeypatch.setattr(assessment, "load_run", lambda run: model)
    for module in (assessment, train):
        monkeypatch.setattr(module, "Predictor", Fixed)
    return model


def measured(folder):
    evaluate_command(Evaluate(folder, folder / "run", out=folder / "new" / "numbers.json"))
    return json.loads((folder / "new" / "numbers.json").read_text())


@pytest.mark.parametrize("objects", [("crystal", "loop"), ("crystal",)])
def test_classes_meet_by_name_in_evaluation_and_in_validation(fixed, tmp_path, objects):
    """Order, ids, letters and categories that are listed without an object change no figure."""
    config = dataclasses.replace(TrainConfig.tiny(), model=fixed.config)
    numbers, validated = {}, {}
    for name, ids in CATEGORIES.items():
        write_val(tmp_path / name, ids, *objects)
        numbers[name] = measured(tmp_path / name)
        validate = train._validation(tmp_path / name, config)
        assert validate is not None
        validated[name] = validate(fixed)
    assert numbers["the model's"]["map_050_all"] == pytest.approx(0.5 if len(objects) == 1 else 2 / 3)
    assert all(found == numbers["the model's"] for found in numbers.values())
    assert all(found == {"val_map": numbers["the model's"]["map_050_all"]} for found in validated.values())
    assert numbers["the model's"]["coco_segm_ap50"] >= 0.5


def test_a_class_that_the_file_does_not_list_is_not_judged(fixed, tmp_path, capsys):
    """The loop, which is false where loops are listed and none is there."""
    write_val(tmp_path / "listed", {"crystal": 1, "loop": 2}, "crystal")
    write_val(tmp_path / "unlisted", {"crystal": 1}, "crystal")
    listed, unlisted = measured(tmp_path / "listed"), measured(tmp_path / "unlisted")
    assert (listed["precision"], unlisted["precision"]) == (pytest.approx(1 / 3), 0.5)
    assert unlisted["map_050_all"] == unlisted["coco_segm_ap50"] == 0.5
    assert "not judged, since the file does not list the class: loop" in " ".join(capsys.readouterr().out.split())
    validate = train._validation(tmp_path / "unlisted", dataclasses.replace(TrainConfig.tiny(), model=fixed.config))
    assert validate
    assert validate(fixed) == {"val_map": 0.5}


def test_ground_truth_that_cannot_be_read_is_named(fixed, tmp_path, capsys):
    write_val(tmp_path, CATEGORIES["the model's"], "crystal", "loop")
    document = json.loads((tmp_path / "val.json").read_text())
    document["annotations"][0] |= {"segmentation": [], "bbox": [5, 5, 10, 10]}
    (tmp_path / "val.json").write_text(json.dumps(document))
    measured(tmp_path)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "done without 1 annotation(s) that cannot be used (a.png: annotation 1: there is no outline)" in said


def test_zooms_and_what_coco_leaves_out_are_said(fixed, tmp_path, monkeypatch, capsys):
    write_val(tmp_path, CATEGORIES["the model's"], "crystal", "loop")
    measured(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "looked at zooms 1, 2" in said
    assert "best detections" not in said
    monkeypatch.setattr(assessment, "COCO_LIMIT", 2)
    measured(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "count the 2 best detections of an image; 1 image(s) have more" in said


def test_nothing_in_common_is_refused_before_any_prediction(fixed, tmp_path, monkeypatch):
    write_val(tmp_path, {"crystal": 1, "ice": 8}, "crystal")
    document = json.loads((tmp_path / "val.json").read_text())
    document["annotations"][0]["category_id"] = 8
    (tmp_path / "val.json").write_text(json.dumps(document))
    monkeypatch.setattr(assessment, "assess", lambda *_, **__: pytest.fail("predicted"))
    with pytest.raises(DatasetError, match=r"val\.json: none of its objects"):
        measured(tmp_path)
    with pytest.raises(DatasetError, match=r"val\.json: none of its objects"):
        train._validation(tmp_path, dataclasses.replace(TrainConfig.tiny(), model=fixed.config))


def test_the_numbers_replace_no_file_of_another_kind(tmp_path):
    """Before the model is read."""
    coco, numbers = tmp_path / "val.json", tmp_path / "numbers.json"
    coco.write_text('{"images": []}')
    numbers.write_text('{"map_050_all": 0.5}')
    with pytest.raises(OutputError, match=r"val\.json exists and is not the numbers of an earlier evaluation"):
        evaluate_command(Evaluate(tmp_path, tmp_path / "run", out=coco))
    assert coco.read_text() == '{"images": []}'
    with pytest.raises(Exception, match="run"):  # an earlier evaluation's may be replaced: there is no such run
        evaluate_command(Evaluate(tmp_path, tmp_path / "run", out=numbers))


@pytest.mark.parametrize("how", ["another size", "turned", "turned by EXIF", "damaged", "cut short"])
def test_images_that_do_not_fit_are_named_before_any_prediction(fixed, tmp_path, monkeypatch, how):
    """By evaluation, and by training before it begins."""
    write_val(tmp_path, {"crystal": 1, "loop": 2}, "crystal")
    path = tmp_path / "val/images/a.png"
    if how == "damaged":
        path.write_bytes(b"no image")
    elif how == "cut short":  # its header states the right size
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        path.write_bytes(cv2.imencode(".jpg", noise)[1].tobytes()[:-1000])
    elif how == "turned by EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path, "JPEG", exif=exif)
    else:
        cv2.imwrite(str(path), np.zeros((80, 60, 3) if how == "turned" else (30, 40, 3), np.uint8))
    monkeypatch.setattr(assessment, "assess", lambda *_, **__: pytest.fail("predicted"))
    message = r"a\.png: is \d+ x \d+ pixels .* but the annotations say 80 x 60"
    if how in ("damaged", "cut short"):
        message = r"a\.png: cannot be decoded"
    with pytest.raises(CrystalError, match=message):
        measured(tmp_path)
    with pytest.raises(CrystalError, match=message):
        train._validation(tmp_path, dataclasses.replace(TrainConfig.tiny(), model=fixed.config))


def test_a_picture_that_exif_turns_upright_fits(fixed, tmp_path):
    write_val(tmp_path, {"crystal": 1, "loop": 2}, "crystal")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.zeros((80, 60, 3), np.uint8))
    turned.save(tmp_path / "val/images/a.png", "JPEG", exif=exif)
    assert measured(tmp_path)["images_of_10"] == 1
