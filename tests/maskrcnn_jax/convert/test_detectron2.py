"""Detectron2's pickle: every stage of inference against Detectron2 0.6 itself (it recorded no training losses)."""

import hashlib

import numpy as np
import pytest

from maskrcnn_jax import convert
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.convert.detectron2 import background_first, with_background
from maskrcnn_jax.convert.verify import compare
from tests import recorded
from tests.weight_files import detectron2_layout, make_image, pytorch_weight, write_pickle


@pytest.fixture(scope="module")
def weights():
    weights = {name: pytorch_weight(name, shape) for name, shape in detectron2_layout().items()}
    anchors = {f"proposal_generator.anchor_generator.cell_anchors.{i}": np.zeros((3, 4), np.float32) for i in range(5)}
    return weights | anchors | {"pixel_mean": np.zeros((3, 1, 1)), "pixel_std": np.ones((3, 1, 1))}


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("detectron2") / "weights.of-any-name"
    write_pickle(path, weights)
    return convert.load(path)


def test_the_layout_is_the_true_one():
    layout = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(detectron2_layout().items()))
    assert hashlib.sha1(layout.encode()).hexdigest() == str(recorded.load("weight_digests")["d2_layout"])


@pytest.mark.slow
def test_every_stage_of_inference(model):
    assert model.config == MaskRCNNConfig.detectron2_coco()
    rows = compare(model, recorded.network("detectron2_network", make_image(320, 512, 11) * 255))
    assert {row.stage for row in rows} >= {
        *("c2", "c5", "p2", "p6", "objectness", "rpn_deltas", "class_logits", "box_deltas", "mask probabilities"),
        *("proposals, end to end", "detections, end to end"),
    }
    assert [row for row in rows if not row.passed] == []


def test_where_classes_and_colours_go(model, weights):
    """Background last becomes first; what has none gets zeros for it; BGR becomes RGB."""
    scores = weights["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(model.box_head.classes.kernel[...][:, 0], scores[80])
    np.testing.assert_array_equal(model.box_head.classes.kernel[...][:, 1:], scores[:80].T)
    np.testing.assert_array_equal(model.box_head.deltas.kernel[...][:, :4], 0.0)
    np.testing.assert_array_equal(
        model.box_head.deltas.kernel[...][:, 4:8], weights["roi_heads.box_predictor.bbox_pred.weight"][:4].T
    )
    np.testing.assert_array_equal(model.mask_head.masks.bias[...][0], 0.0)
    stem = weights["backbone.bottom_up.stem.conv1.weight"]
    np.testing.assert_array_equal(model.backbone.stem.kernel[...][:, :, 0], stem[:, 2].transpose(1, 2, 0))


@pytest.mark.parametrize(
    "trained", [{"pixel_mean": [123.675, 116.28, 103.53]}, {"pixel_std": [57.375, 57.12, 58.395]}], ids=["RGB", "std"]
)
def test_a_training_on_other_colours_is_refused(weights, tmp_path, trained):
    ours = {"pixel_mean": np.array([103.53, 116.28, 123.675]), "pixel_std": np.ones(3)}
    write_pickle(tmp_path / "w", weights | ours)
    convert.load_config(tmp_path / "w")
    write_pickle(tmp_path / "w", weights | ours | {name: np.array(value) for name, value in trained.items()})
    with pytest.raises(convert.ConversionError, match="are not those of Detectron2's BGR images"):
        convert.load_config(tmp_path / "w")


def test_rows_for_the_background():
    rows = np.arange(80 * 4 * 2.0).reshape(80 * 4, 2)
    padded = with_background(rows, classes=80)
    assert padded.shape == (81 * 4, 2)
    np.testing.assert_array_equal(padded[:4], 0.0)
    np.testing.assert_array_equal(padded[4:], rows)
    np.testing.assert_array_equal(background_first(np.arange(81)), [80, *range(80)])
