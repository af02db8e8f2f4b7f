"""The paper's metric against a slow walk down the ranking and Matterport's recordings; COCO's against pycocotools."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crystal.evaluation.metrics import (
    COCO_METRICS,
    average_precision,
    coco_metrics,
    empty_image_report,
    mask_iou,
    match,
    paper_map,
    precision_recall,
)
from tests import oracles

GOLDENS = Path(__file__).parents[2] / "goldens" / "matterport_ap.npz"
HEIGHT, WIDTH = 24, 30
seeds = st.integers(0, 2**32 - 1)


def blobs(random, count):
    """Rectangles, some of them alike, so that IoUs of all sizes occur."""
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask in masks:
        y, x = 4 * random.integers(0, 4, 2) + random.integers(0, 3, 2)
        mask[y : y + random.integers(5, 9), x : x + random.integers(5, 9)] = True
    return masks


def random_truth(random, count=None):
    count = int(random.integers(1, 7)) if count is None else count
    return {"masks": blobs(random, count), "classes": random.integers(1, 3, count)}


def random_prediction(random, truth):
    """Some ground truths, shifted by a pixel or two, and some of chance."""
    near = [np.roll(mask, random.integers(-2, 3, 2), (0, 1)) for mask in truth["masks"] if random.random() < 0.8]
    masks = np.concatenate(
        [np.reshape(near, (-1, HEIGHT, WIDTH)).astype(bool), blobs(random, int(random.integers(0, 4)))]
    )
    scores = random.choice(np.linspace(0.05, 1, 60), len(masks), replace=False)
    return {"masks": masks, "classes": random.integers(1, 3, len(masks)), "scores": scores}


def as_rle(instances):
    encoded = [rle_tools.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in instances["masks"]]
    return instances | {"masks": encoded}


NOTHING = {"masks": np.zeros((0, HEIGHT, WIDTH), bool), "classes": np.zeros(0, int), "scores": np.zeros(0)}


def golden(recorded, case, which):
    shape = recorded[f"ap{case}_{which}_shape"]
    bits = np.unpackbits(recorded[f"ap{case}_{which}_masks"])[: np.prod(shape)]
    masks = np.moveaxis(bits.reshape(shape).astype(bool), -1, 0)
    return {"masks": masks, "classes": recorded[f"ap{case}_{which}_class_ids"]}


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("percent", [50, 65])
def test_equals_matterports_recordings(case, percent):
    with np.load(GOLDENS) as recorded:
        truth = golden(recorded, case, "gt")
        prediction = golden(recorded, case, "pred") | {"scores": recorded[f"ap{case}_pred_scores"]}
        expected = {key: recorded[f"ap{case}_{percent}_{key}"] for key in ("ap", "pred_match", "gt_match", "overlaps")}
    matching = match(truth, prediction, iou=percent / 100)
    found_by = np.full(len(truth["classes"]), -1)
    found_by[matching.truth[matching.truth >= 0]] = np.flatnonzero(matching.truth >= 0)
    np.testing.assert_array_equal(matching.truth, expected["pred_match"])
    np.testing.assert_array_equal(found_by, expected["gt_match"])
    overlaps = mask_iou(prediction["masks"], truth["masks"])[matching.order]
    np.testing.assert_allclose(overlaps, expected["overlaps"], atol=1e-6)
    assert average_precision(truth, prediction, iou=percent / 100) == pytest.approx(float(expected["ap"]), abs=1e-6)


@given(seed=seeds, iou=st.sampled_from([0.3, 0.5, 0.65, 0.9]))
@settings(max_examples=60, deadline=None)
def test_equals_the_oracle_for_arrays_and_for_rle(seed, iou):
    random = np.random.default_rng(seed)
    truth = random_truth(random)
    prediction = random_prediction(random, truth)
    expected = oracles.image_average_precision(truth, prediction, iou)
    assert average_precision(truth, prediction, iou=iou) == pytest.approx(expected, abs=1e-12)
    assert average_precision(as_rle(truth), as_rle(prediction), iou=iou) == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, iou=st.sampled_from([0.5, 0.65]), images=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_set_of_images_equals_the_oracle(seed, iou, images):
    """Some images without ground truth, some without predictions, some without either."""
    random = np.random.default_rng(seed)
    truths = [random_truth(random) if random.random() < 0.7 else NOTHING for _ in range(images)]
    predictions = [random_prediction(random, t) if random.random() < 0.7 else NOTHING for t in truths]
    expected = oracles.paper_numbers(truths, predictions, iou)
    ours = paper_map(truths, predictions, iou=iou), *precision_recall(truths, predictions, iou=iou)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    empty = [len(p["scores"]) for t, p in zip(truths, predictions, strict=True) if not len(t["classes"])]
    assert empty_image_report(truths, predictions, iou=iou) == (len(empty), sum(empty))


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_mask_iou_equals_the_oracle_and_is_symmetric(seed):
    random = np.random.default_rng(seed)
    a, b = blobs(random, 3), blobs(random, 2)
    a[0] = False  # an empty mask overlaps nothing
    np.testing.assert_allclose(mask_iou(a, b), oracles.mask_iou(a, b), atol=1e-12)
    np.testing.assert_array_equal(mask_iou(a, b), mask_iou(b, a).T)
    np.testing.assert_allclose(np.diag(mask_iou(b, b)), 1)


def test_mask_iou_of_nothing():
    none = NOTHING["masks"]
    assert mask_iou(none, blobs(np.random.default_rng(0), 2)).shape == (0, 2)
    assert mask_iou(blobs(np.random.default_rng(0), 2), []).shape == (2, 0)
    assert mask_iou(none, none).shape == (0, 0)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_order_of_instances_and_scale_of_scores_do_not_matter(seed):
    random = np.random.default_rng(seed)
    truth = random_truth(random)
    prediction = random_prediction(random, truth)
    expected = average_precision(truth, prediction, iou=0.5)
    shuffle = random.permutation(len(prediction["scores"]))
    shuffled = {key: value[shuffle] for key, value in prediction.items()}
    shuffled["scores"] = shuffled["scores"] ** 2 / 7
    assert average_precision(truth, shuffled, iou=0.5) == pytest.approx(expected)


def test_perfect_predictions_score_one_whatever_the_threshold():
    random = np.random.default_rng(1)
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, :5], masks[1, 7:12], masks[2, 14:] = True, True, True
    truth = {"masks": masks, "classes": np.ones(3, int)}
    prediction = truth | {"scores": random.random(3)}
    for iou in (0.5, 0.65, 1.0):
        assert paper_map([truth], [prediction], iou=iou) == 1
        assert precision_recall([truth], [prediction], iou=iou) == (1, 1)


def test_a_truth_is_found_once_and_only_in_its_class():
    mask = blobs(np.random.default_rng(2), 1)
    truth = {"masks": mask, "classes": [1]}
    twice = {"masks": np.repeat(mask, 2, axis=0), "classes": [1, 1], "scores": [0.9, 0.8]}
    assert match(truth, twice, iou=0.5).truth.tolist() == [0, -1]
    assert precision_recall([truth], [twice], iou=0.5) == (0.5, 1)
    other = {"masks": mask, "classes": [2], "scores": [0.9]}
    assert average_precision(truth, other, iou=0.5) == 0


def test_the_threshold_itself_counts():
    truth = {"masks": np.ones((1, 1, 4), bool), "classes": [1]}
    half = {"masks": np.array([[[1, 1, 0, 0]]], bool), "classes": [1], "scores": [0.5]}
    assert average_precision(truth, half, iou=0.5) == 1
    assert average_precision(truth, half, iou=0.51) == 0


def test_equal_scores_rank_the_earlier_first():
    mask = blobs(np.random.default_rng(3), 1)
    truth = {"masks": mask, "classes": [1]}
    tied = {"masks": np.concatenate([mask, ~mask]), "classes": [1, 1], "scores": [0.5, 0.5]}
    assert average_precision(truth, tied, iou=0.5) == 1
    reverse = {key: value[::-1] for key, value in tied.items()}
    assert average_precision(truth, reverse, iou=0.5) == 0.5


def test_images_without_truth_are_left_out_and_reported():
    random = np.random.default_rng(4)
    truth = random_truth(random)
    prediction = truth | {"scores": random.random(len(truth["classes"]))}
    alone = paper_map([truth], [prediction], iou=0.5)
    both = [truth, NOTHING], [prediction, prediction]
    assert paper_map(*both, iou=0.5) == alone
    assert empty_image_report(*both, iou=0.5) == (1, len(prediction["scores"]))
    halved = precision_recall([truth], [prediction], iou=0.5).precision / 2
    assert precision_recall(*both, iou=0.5).precision == pytest.approx(halved)


def test_nothing_at_all():
    assert math.isnan(paper_map([], [], iou=0.5))
    assert math.isnan(paper_map([NOTHING], [NOTHING], iou=0.5))
    assert all(map(math.isnan, precision_recall([NOTHING], [NOTHING], iou=0.5)))
    truth = random_truth(np.random.default_rng(5))
    assert paper_map([truth], [NOTHING], iou=0.5) == 0
    precision, recall = precision_recall([truth], [NOTHING], iou=0.5)
    assert math.isnan(precision)
    assert recall == 0


def test_crowds_are_neither_found_nor_missed():
    pixels = np.zeros((4, HEIGHT, WIDTH), bool)
    pixels[0, :4, :4] = True  # a crystal
    pixels[1, 10:, 10:] = True  # a crowd
    pixels[2, 12:16, 12:16] = True  # predicted inside the crowd
    pixels[3, 6:9, :9] = True  # predicted on nothing
    truth = {"masks": pixels[:2], "classes": [1, 1], "crowd": [False, True]}
    prediction = {"masks": pixels[[2, 3, 0]], "classes": [1, 1, 1], "scores": [0.9, 0.8, 0.7]}
    matching = match(truth, prediction, iou=0.5)
    assert matching.truth.tolist() == [-1, -1, 0]
    assert matching.left_out.tolist() == [True, False, False]
    assert average_precision(truth, prediction, iou=0.5) == 0.5
    assert precision_recall([truth], [prediction], iou=0.5) == (0.5, 1)
    of_another_class = prediction | {"classes": [2, 1, 1]}
    assert not match(truth, of_another_class, iou=0.5).left_out.any()
    only_crowd = {"masks": pixels[1:2], "classes": [1], "crowd": [True]}
    assert math.isnan(paper_map([only_crowd], [prediction], iou=0.5))
    assert empty_image_report([only_crowd], [prediction], iou=0.5) == (1, 2)


def test_refuses_what_does_not_fit_together():
    truth = random_truth(np.random.default_rng(6))
    wide = {"masks": np.ones((1, HEIGHT, WIDTH + 1), bool), "classes": [1], "scores": [1.0]}
    with pytest.raises(ValueError, match="differ in size"):
        average_precision(truth, wide, iou=0.5)
    with pytest.raises(ValueError, match=r"\[n, h, w\]"):
        mask_iou(np.ones((3, 3), bool), truth["masks"])
    with pytest.raises(ValueError, match="1 masks, 2 classes"):
        average_precision(truth, wide | {"classes": [1, 2]}, iou=0.5)
    with pytest.raises(ValueError, match="truth: "):
        average_precision(truth | {"classes": [1] * 9}, wide, iou=0.5)
    with pytest.raises(ValueError, match="1 images of truth, 0"):
        paper_map([truth], [], iou=0.5)


def coco_case(seed, images=6):
    """A random dataset of two classes with crowds and objects of all three sizes, and results for it."""
    random = np.random.default_rng(seed)
    truth = {
        "images": [{"id": i, "height": 240, "width": 300, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "crystal"}, {"id": 2, "name": "needle"}],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(random.integers(0, 6)):
            mask = np.zeros((240, 300), np.uint8)
            y, x, side = random.integers(0, 100), random.integers(0, 160), random.choice([12, 50, 130])
            mask[y : y + side, x : x + side] = 1
            near = np.roll(mask, random.integers(-side // 8, side // 8 + 1, 2), (0, 1))
            rle = rle_tools.encode(np.asfortranarray(mask))
            annotation = {
                "id": len(truth["annotations"]) + 1,
                "image_id": image["id"],
                "category_id": int(random.integers(1, 3)),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "bbox": rle_tools.toBbox(rle).tolist(),
                "area": float(mask.sum()),
                "iscrowd": int(random.random() < 0.15),
            }
            truth["annotations"].append(annotation)
            if random.random() < 0.8:
                rle = rle_tools.encode(np.asfortranarray(near))
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": annotation["category_id"],
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                        "bbox": rle_tools.toBbox(rle).tolist(),
                        "score": float(random.random()),
                    }
                )
    return truth, results


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_boxes", [True, False])
def test_coco_metrics_equal_pycocotools_called_directly(tmp_path, capsys, kind, seed, with_boxes):
    truth, results = coco_case(seed)
    if not with_boxes and kind == "segm":
        for result in results:
            del result["bbox"]
    before = json.dumps([truth, results])
    ours = coco_metrics(truth, results, kind=kind)
    assert capsys.readouterr().out == ""
    assert json.dumps([truth, results]) == before  # the caller's dicts are left alone

    (tmp_path / "truth.json").write_text(json.dumps({"info": {}, **truth}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    known = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(known, known.loadRes(str(tmp_path / "results.json")), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(ours) == list(COCO_METRICS)
    assert list(ours.values()) == evaluation.stats.tolist()


def test_coco_metrics_of_nothing():
    truth, results = coco_case(0)
    nothing_found = coco_metrics(truth, [])
    assert nothing_found["AP"] == nothing_found["AR100"] == 0
    no_truth = coco_metrics({**truth, "annotations": []}, results)
    assert set(no_truth.values()) == {-1.0}
    assert set(coco_metrics({**truth, "annotations": []}, []).values()) == {-1.0}


def test_coco_metrics_of_perfect_results():
    truth, _ = coco_case(1)
    perfect = [dict(annotation, score=1.0) for annotation in truth["annotations"] if not annotation["iscrowd"]]
    for kind in ("segm", "bbox"):
        assert coco_metrics(truth, perfect, kind=kind)["AP"] == pytest.approx(1)


def test_coco_metrics_speak_up():
    truth, results = coco_case(2)
    with pytest.raises(ValueError, match=r"image_id \[99\]"):
        coco_metrics(truth, [results[0] | {"image_id": 99}])
    truth["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match="from 1"):
        coco_metrics(truth, results)
