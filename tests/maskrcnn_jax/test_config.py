import dataclasses
import json

import pytest

from maskrcnn_jax.config import MaskRCNNConfig

PRESETS = {
    "paper": MaskRCNNConfig.paper(),
    "matterport_coco": MaskRCNNConfig.matterport_coco(),
    "torchvision_coco": MaskRCNNConfig.torchvision_coco(),
    "torchvision_coco 101": MaskRCNNConfig.torchvision_coco(depth=101),
    "detectron2_coco": MaskRCNNConfig.detectron2_coco(),
    "tiny": MaskRCNNConfig.tiny(),
}
each_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)


@each_preset
def test_survives_json(config):
    again = MaskRCNNConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert again.num_classes == len(config.classes)


@each_preset
def test_consistent(config):
    assert config.classes[0] == (0, "background")
    assert len({i for i, _ in config.classes}) == config.num_classes
    assert len(config.anchors.strides) == len(config.anchors.sizes) == 5
    assert config.roi.targets.max_positive <= config.roi.targets.samples
    assert config.rpn.targets.max_positive <= config.rpn.targets.samples
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.far_edge = 3


def test_what_sets_the_presets_apart():
    """Each number as the source has it; CONVENTIONS of the weight sources in one place."""
    mp, tv, d2, paper = (PRESETS[k] for k in ("matterport_coco", "torchvision_coco", "detectron2_coco", "paper"))
    assert [c.num_classes for c in (mp, tv, d2, paper)] == [81, 91, 81, 2]
    assert [c.backbone.depths[2] for c in (mp, tv, d2, paper)] == [23, 6, 23, 23]
    assert [c.backbone.stride_on for c in (mp, tv, d2, paper)] == ["1x1", "3x3", "1x1", "1x1"]
    assert [c.backbone.pool_padding for c in (mp, tv, d2, paper)] == ["end", "both", "both", "end"]
    assert [c.rpn.channels for c in (mp, tv, d2, paper)] == [512, 256, 256, 512]
    assert [c.rpn.proposals.after_nms for c in (mp, tv, d2)] == [(2000, 1000), (2000, 1000), (1000, 1000)]
    assert [c.roi.pooling.kind for c in (mp, tv, d2, paper)] == ["corners", "bins", "bins", "bins"]
    assert [c.roi.pooling.aligned for c in (tv, d2)] == [False, True]
    assert [c.roi.pooling.sampling_ratio for c in (tv, d2, paper)] == [2, 0, 2]
    assert [c.roi.pooling.reduce for c in (mp, tv, d2, paper)] == ["mean", "mean", "mean", "max"]
    assert [c.roi.targets.truth_copies for c in (mp, tv, d2)] == [0, 1, 1]
    assert [c.far_edge for c in (mp, tv, d2, paper)] == [1, 0, 0, 1]
    assert [c.detection.score_threshold for c in (mp, tv, d2, paper)] == [0.7, 0.05, 0.05, 0.7]
    assert (tv.anchors.rounded, d2.anchors.rounded) == (True, False)
    assert PRESETS["torchvision_coco 101"].backbone.depths == (3, 4, 23, 3)


def test_partial_dict_keeps_the_defaults():
    config = MaskRCNNConfig.from_dict({"rpn": {"channels": 7}, "classes": [[0, "background"], [5, "needle"]]})
    assert config.rpn.channels == 7
    assert config.rpn.targets == MaskRCNNConfig().rpn.targets
    assert config.classes == ((0, "background"), (5, "needle"))
