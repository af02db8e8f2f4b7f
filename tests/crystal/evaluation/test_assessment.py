"""What evaluation hands to pycocotools: the checked split, since the file itself can end the process."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from crystal.data.dataset import load_split
from crystal.data.segmentation import draw_pixels
from crystal.evaluation.assessment import coco_truth, truth_of
from crystal.evaluation.metrics import coco_metrics

FAR = [30.0, 5.0, 1e9, 5.0, 1e9, 30.0, 30.0, 30.0]  # pycocotools alone crashes on this edge


def test_the_checked_split_is_what_is_measured(tmp_path):
    """A clipped outline, a useless one, a wrong area and a crowd; found exactly, they are found with an AP of 1."""
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
    assert len(record.instances) == 3
    truth = truth_of(record)
    for instance, mask in zip(record.instances, truth["masks"], strict=True):
        assert np.array_equal(
            coco_mask.decode(mask).astype(bool), draw_pixels(instance.segmentation, 60, 80).astype(bool)
        )
    checked = coco_truth(split, [truth])
    assert [a["id"] for a in checked["annotations"]] == [1, 2, 3]
    assert [a["area"] for a in checked["annotations"]] == [50 * 25, 200, 600]
    results = [
        {"image_id": 7, "category_id": 13, "score": 0.9, "segmentation": mask}
        for mask, crowded in zip(truth["masks"], truth["crowd"], strict=True)
        if not crowded
    ]
    numbers = coco_metrics(checked, results, kind="segm")
    assert numbers["AP"] == pytest.approx(1)
