"""One frozen dataclass per component, and named presets (standard library only).

There is one network; the fields are the differences between the weight sources that conversion cannot fold into the
weights. Comments name the source of a value: "mp" is Matterport's Mask R-CNN (which the paper is based on), "tv"
torchvision's, "d2" Detectron2's. Only `model.py` reads the whole config; components take plain arguments.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageConfig:
    """Normalisation of letterboxed RGB values 0-255 before the first convolution: (value - mean) / std."""

    size: tuple[int, int] = (512, 512)  # height, width of the letterboxed image
    mean: tuple[float, float, float] = (123.7, 116.8, 103.9)  # mp
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    # Padding is black before normalisation (mp), or the mean colour: 0 after normalisation (tv, d2).
    padding: Literal["black", "mean"] = "black"
    # Whether images are equalised before the letterbox; not done by the network, but by the application that uses it.
    clahe: bool = False


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet (He et al. 2015, table 1)."""

    block: Literal["bottleneck", "basic"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    channels: tuple[int, int, int, int] = (256, 512, 1024, 2048)  # of C2..C5
    stem: Literal["conv7", "space_to_depth"] = "conv7"
    stem_channels: int = 64
    norm: Literal["affine", "group"] = "affine"  # affine: frozen batch norm, folded
    group_size: int = 16  # channels per group, for norm = "group"
    stride_on: Literal["1x1", "3x3"] = "1x1"  # the convolution that downsamples: 1x1 (mp, d2), 3x3 (tv)
    pool_padding: Literal["both", "end"] = "both"  # 1 on both sides (tv, d2); only bottom and right (mp, Keras SAME)


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors: `ratios` at every cell of P2..P6. ratio = height / width (mp lists width / height, hence reversed)."""

    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (2.0, 1.0, 0.5)
    rounded: bool = False  # tv rounds the base anchors to whole pixels


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network: head, targets, loss (Crystals 2021 eq. 2) and proposals."""

    channels: int = 512
    delta_weights: Four = (10.0, 10.0, 5.0, 5.0)
    max_log_scale: float | None = None  # limit of log-scale deltas; log(1000 / 16) in tv and d2
    # targets
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    max_positive: int = 128
    crowd_iou: float = 0.001  # an anchor of this IoU with a crowd is never negative (mp)
    # loss: 1/N_cls sum L_cls + lambda 1/N_reg sum p* L_reg. N_cls and N_reg: sampled anchors and 4 x positives (mp),
    # sampled anchors (tv), or slots, 256 per image (d2). lambda is 1 in all three.
    class_normaliser: Literal["sampled", "slots"] = "sampled"
    box_normaliser: Literal["positive_coordinates", "sampled", "slots"] = "positive_coordinates"
    box_beta: float = 1.0
    box_weight: float = 1.0  # lambda
    # proposals
    per_level: bool = False  # rank and suppress per level (tv, d2) or all levels together (mp)
    score: Literal["logit", "probability"] = "probability"  # what NMS and the final selection rank by
    before_nms: tuple[int, int] = (6000, 6000)  # training, inference
    after_nms: tuple[int, int] = (2000, 1000)
    nms_iou: float = 0.7
    min_side: float = 0.0
    clip_to: Literal["window", "image"] = "window"  # without padding (tv, d2), or the whole image (mp)


@dataclass(frozen=True)
class RoIConfig:
    """Second stage: pooling, heads, targets and losses."""

    pooling: Literal["bins", "corners"] = "corners"  # RoI Align (tv, d2, the paper) or crop_and_resize (mp)
    sampling_ratio: int = 2  # samples per bin and side; 0: adaptive (d2)
    max_samples: int = 8  # limit of the adaptive rule
    aligned: bool = True  # half-pixel shift (d2); tv's False
    reduce: Literal["mean", "max"] = "mean"  # over a bin's samples; max: the paper's section 2.4
    canonical_size: float = 224.0  # side, in pixels, of a RoI that P4 is for (FPN eq. 1)
    level_rounding: Literal["floor", "round"] = "round"
    level_epsilon: float = 0.0
    box_size: int = 7
    box_hidden: int = 1024
    mask_size: int = 14
    mask_channels: int = 256
    mask_layers: int = 4
    delta_weights: Four = (10.0, 10.0, 5.0, 5.0)
    max_log_scale: float | None = None
    # targets
    truth_copies: int = 0  # copies of each ground-truth box added to the proposals (tv, d2: 1; mp: 0)
    truth_jitter: float = 0.0  # largest shift of a copy's edges, relative to its sides
    samples: int = 200
    max_positive: int = 66
    positive_iou: float = 0.5
    negatives_per_positive: float | None = None  # mp: 1 / 0.33 - 1, even if slots stay empty
    mask_targets: Literal["corners", "bins"] = "corners"  # crop_and_resize (mp) or adaptive RoI Align (tv, d2)
    binary_mask_targets: bool = True  # rounded (mp, d2) or fractional (tv)
    # losses
    class_normaliser: Literal["sampled", "slots"] = "sampled"  # mp averages over all slots, unfilled ones included
    box_normaliser: Literal["positive_coordinates", "sampled"] = "positive_coordinates"  # tv, d2: sampled RoIs
    box_beta: float = 1.0


@dataclass(frozen=True)
class DetectionConfig:
    """From class logits and box deltas to detections."""

    one_class: bool = True  # only each RoI's best class (mp), or every class above the threshold (tv, d2)
    score_threshold: float = 0.7
    nms_iou: float = 0.3
    max_detections: int = 100
    candidates: int = 1000  # (RoI, class) pairs that enter NMS, best first
    min_side: float = 0.0


@dataclass(frozen=True)
class MaskRCNNConfig:
    """The whole configuration of a network. Hashable, so it can be a static argument of `jit`."""

    classes: tuple[tuple[int, str], ...] = ((0, "background"), (1, "crystal"))  # (id in COCO files, name)
    image: ImageConfig = field(default_factory=ImageConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn_channels: int = 256
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    # Pixels subtracted from x2 and y2 before boxes are encoded, clipped, suppressed and pooled: 1 (mp) or 0.
    far_edge: int = 0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of convolutions and matmuls; the rest is float32

    @property
    def num_classes(self) -> int:
        """k, background included."""
        return len(self.classes)

    def to_dict(self) -> dict:
        """Nested dict of numbers, strings and tuples, as written to `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "MaskRCNNConfig":
        """Inverse of `to_dict`, also after JSON made lists of the tuples. Raises ValueError for unknown keys."""
        return _from_dict(cls, values, "")

    @classmethod
    def paper(cls) -> "MaskRCNNConfig":
        """Qin et al., Crystals 2021, 11, 157: Matterport's network with the classes background and crystal, and the
        maximum of four bilinear samples per bin in RoI Align (section 2.4).

        Training: `crystal train --preset paper --data DATASET --out RUN`.
        """
        config = cls.matterport_coco()
        return dataclasses.replace(
            config,
            classes=((0, "background"), (1, "crystal")),
            roi=dataclasses.replace(config.roi, pooling="bins", sampling_ratio=2, reduce="max"),
        )

    @classmethod
    def matterport_coco(cls) -> "MaskRCNNConfig":
        """Matterport's `mask_rcnn_coco.h5`: ResNet101; 512x512 pixels, as in the paper."""
        return cls(
            classes=COCO_CLASSES,
            backbone=BackboneConfig(pool_padding="end"),
            rpn=RPNConfig(clip_to="image"),
            roi=RoIConfig(negatives_per_positive=1 / 0.33 - 1, class_normaliser="slots"),
            far_edge=1,
        )

    @classmethod
    def torchvision_coco(cls, depth: int = 50) -> "MaskRCNNConfig":
        """Torchvision's `maskrcnn_resnet50_fpn` (v1); depth 50 or 101. 91 classes: COCO's ids, gaps included."""
        return cls(
            classes=tuple((i, dict(COCO_CLASSES).get(i, f"unused-{i}")) for i in range(91)),
            image=ImageConfig(
                mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
                std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
                padding="mean",
            ),
            backbone=BackboneConfig(depths=RESNET_DEPTHS[depth], stride_on="3x3"),
            anchors=AnchorConfig(ratios=(0.5, 1.0, 2.0), rounded=True),
            rpn=RPNConfig(
                channels=256,
                delta_weights=(1.0, 1.0, 1.0, 1.0),
                max_log_scale=MAX_LOG_SCALE,
                box_normaliser="sampled",
                box_beta=1 / 9,
                per_level=True,
                before_nms=(2000, 1000),
                after_nms=(2000, 1000),
                min_side=1e-3,
            ),
            roi=RoIConfig(
                pooling="bins",
                sampling_ratio=2,
                aligned=False,
                level_rounding="floor",
                level_epsilon=1e-6,
                max_log_scale=MAX_LOG_SCALE,
                truth_copies=1,
                samples=512,
                max_positive=128,
                mask_targets="bins",
                binary_mask_targets=False,
                box_normaliser="sampled",
                box_beta=1 / 9,
            ),
            detection=DetectionConfig(
                one_class=False, score_threshold=0.05, nms_iou=0.5, candidates=2000, min_side=1e-2
            ),
        )

    @classmethod
    def detectron2_coco(cls) -> "MaskRCNNConfig":
        """Detectron2's mask_rcnn_R_101_FPN_3x. 80 classes and background, which is last there and first here."""
        config = cls.torchvision_coco(depth=101)
        return dataclasses.replace(
            config,
            classes=COCO_CLASSES,
            image=ImageConfig(mean=(123.675, 116.28, 103.53), padding="mean"),
            backbone=BackboneConfig(),
            anchors=AnchorConfig(ratios=(0.5, 1.0, 2.0)),
            rpn=dataclasses.replace(
                config.rpn,
                class_normaliser="slots",
                box_normaliser="slots",
                box_beta=0.0,
                score="logit",
                after_nms=(1000, 1000),
                min_side=1e-6,  # d2 drops empty boxes
            ),
            roi=dataclasses.replace(
                config.roi,
                sampling_ratio=0,
                aligned=True,
                level_epsilon=1e-6,  # d2 adds 1e-8 inside the logarithm; float32 rounding is of this order
                binary_mask_targets=True,
                box_beta=0.0,
            ),
            detection=dataclasses.replace(config.detection, min_side=1e-6),
        )

    @classmethod
    def tiny(cls) -> "MaskRCNNConfig":
        """A network of about two million parameters that trains on two CPU cores in minutes.

        Training: `crystal train --preset tiny --data DATASET --out RUN`; `crystal demo` reports its scores.
        """
        return cls(
            image=ImageConfig(size=(256, 320), mean=(127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0), padding="mean"),
            backbone=BackboneConfig(
                block="basic",
                depths=(1, 2, 2, 2),
                channels=(32, 64, 96, 160),
                stem="space_to_depth",
                stem_channels=32,
                norm="group",
                group_size=8,
                stride_on="3x3",
            ),
            fpn_channels=64,
            anchors=AnchorConfig(sizes=(12, 24, 48, 96, 160), ratios=(2.0, 1.0, 0.5)),
            rpn=RPNConfig(
                channels=64,
                delta_weights=(1.0, 1.0, 1.0, 1.0),
                max_log_scale=MAX_LOG_SCALE,
                samples=128,
                max_positive=64,
                box_normaliser="sampled",
                box_beta=1 / 9,
                per_level=True,
                score="logit",
                before_nms=(300, 300),
                after_nms=(200, 150),
            ),
            roi=RoIConfig(
                pooling="bins",
                sampling_ratio=1,
                canonical_size=112.0,
                level_rounding="floor",
                level_epsilon=1e-6,
                box_hidden=128,
                mask_channels=48,
                mask_layers=2,
                max_log_scale=MAX_LOG_SCALE,
                truth_copies=2,
                truth_jitter=0.1,
                samples=48,
                max_positive=16,
                box_normaliser="sampled",
                box_beta=1 / 9,
            ),
            detection=DetectionConfig(one_class=False, score_threshold=0.05, nms_iou=0.4, candidates=150),
        )


def _from_dict(cls, values, path: str):
    """A nested dataclass from nested dicts; lists become tuples, so that it is hashable."""
    names = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown config keys {', '.join(path + k for k in unknown)}; known: {', '.join(names)}")
    kwargs = {}
    for key, value in values.items():
        kind = names[key].type
        kwargs[key] = _from_dict(kind, value, f"{path}{key}.") if dataclasses.is_dataclass(kind) else _as_tuple(value)
    return cls(**kwargs)


def _as_tuple(value):
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


MAX_LOG_SCALE = math.log(1000.0 / 16.0)  # as in boxes/coding.py, which this file may not import
RESNET_DEPTHS: dict[int, tuple[int, int, int, int]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# COCO's 80 classes by their ids, which have gaps.
# fmt: off
COCO_CLASSES: tuple[tuple[int, str], ...] = (
    (0, "background"), (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"), (6, "bus"),
    (7, "train"), (8, "truck"), (9, "boat"), (10, "traffic light"), (11, "fire hydrant"), (13, "stop sign"),
    (14, "parking meter"), (15, "bench"), (16, "bird"), (17, "cat"), (18, "dog"), (19, "horse"), (20, "sheep"),
    (21, "cow"), (22, "elephant"), (23, "bear"), (24, "zebra"), (25, "giraffe"), (27, "backpack"), (28, "umbrella"),
    (31, "handbag"), (32, "tie"), (33, "suitcase"), (34, "frisbee"), (35, "skis"), (36, "snowboard"),
    (37, "sports ball"), (38, "kite"), (39, "baseball bat"), (40, "baseball glove"), (41, "skateboard"),
    (42, "surfboard"), (43, "tennis racket"), (44, "bottle"), (46, "wine glass"), (47, "cup"), (48, "fork"),
    (49, "knife"), (50, "spoon"), (51, "bowl"), (52, "banana"), (53, "apple"), (54, "sandwich"), (55, "orange"),
    (56, "broccoli"), (57, "carrot"), (58, "hot dog"), (59, "pizza"), (60, "donut"), (61, "cake"), (62, "chair"),
    (63, "couch"), (64, "potted plant"), (65, "bed"), (67, "dining table"), (70, "toilet"), (72, "tv"),
    (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"), (77, "cell phone"), (78, "microwave"),
    (79, "oven"), (80, "toaster"), (81, "sink"), (82, "refrigerator"), (84, "book"), (85, "clock"), (86, "vase"),
    (87, "scissors"), (88, "teddy bear"), (89, "hair drier"), (90, "toothbrush"),
)
# fmt: on
