"""One frozen dataclass per component, and named presets (standard library only).

There is one network; the fields are the differences between the weight sources that conversion cannot fold into the
weights. Comments name the source of a value: "mp" is Matterport's Mask R-CNN (which the paper is based on), "tv"
torchvision's, "d2" Detectron2's. Only `model.py` reads the whole config; each component takes its own part of it.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from maskrcnn_jax.coco import COCO_CLASSES

Four = tuple[float, float, float, float]
STRIDES = (4, 8, 16, 32, 64)  # pixels of the image a cell of P2..P6


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
    # The least and the largest zoom of the views that it was trained on, 1 being whole images; None: not told.
    zooms: tuple[float, float] | None = None


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
    # How the blocks run, with equal results. scan_blocks: equal blocks of a stage as one loop, which compiles faster.
    # remat_blocks: a block's inner values are computed again in the backward pass, which saves memory and costs time.
    scan_blocks: bool = False
    remat_blocks: bool = False

    @classmethod
    def resnet(cls, depth: int, **options: Any) -> "BackboneConfig":
        """ResNet18 or 34, of basic blocks, or ResNet50 or 101, of bottlenecks. `options`: other fields.

        Raises:
            ValueError: for another `depth`.
        """
        if depth not in RESNET_DEPTHS:
            raise ValueError(f"BackboneConfig: depth is {depth}; give one of {', '.join(map(str, RESNET_DEPTHS))}")
        kind = ("basic", (64, 128, 256, 512)) if depth < 50 else ("bottleneck", (256, 512, 1024, 2048))
        return cls(block=kind[0], depths=RESNET_DEPTHS[depth], channels=kind[1], **options)


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors: `ratios` at every cell of P2..P6. ratio = height / width (mp lists width / height, hence reversed)."""

    strides: tuple[int, ...] = STRIDES
    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (2.0, 1.0, 0.5)
    rounded: bool = False  # tv rounds the base anchors to whole pixels


@dataclass(frozen=True)
class BoxCoding:
    """Scale and limit of box deltas (`boxes/coding.py`)."""

    weights: Four = (10.0, 10.0, 5.0, 5.0)
    max_log_scale: float | None = None  # limit of log-scale deltas; log(1000 / 16) in tv and d2


@dataclass(frozen=True)
class RPNTargetConfig:
    """Which anchors the RPN is trained on (`rpn/targets.py`)."""

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    max_positive: int = 128
    crowd_iou: float = 0.001  # an anchor of this IoU with a crowd is never negative (mp)


@dataclass(frozen=True)
class RPNLossConfig:
    """1/N_cls sum L_cls + lambda 1/N_reg sum p* L_reg (Crystals 2021 eq. 2; `rpn/loss.py`).

    N_cls and N_reg: sampled anchors and 4 x positives (mp), sampled anchors (tv), or slots, 256 per image (d2). lambda
    is 1 in all three.
    """

    class_normaliser: Literal["sampled", "slots"] = "sampled"
    box_normaliser: Literal["positive_coordinates", "sampled", "slots"] = "positive_coordinates"
    box_beta: float = 1.0
    box_weight: float = 1.0  # lambda


@dataclass(frozen=True)
class ProposalConfig:
    """From the RPN's outputs to proposals (`rpn/proposals.py`)."""

    per_level: bool = False  # rank and suppress per level (tv, d2) or all levels together (mp)
    score: Literal["logit", "probability"] = "probability"  # what NMS and the final selection rank by
    before_nms: tuple[int, int] = (6000, 6000)  # training, inference
    after_nms: tuple[int, int] = (2000, 1000)  # training, inference
    nms_iou: float = 0.7
    min_side: float = 0.0
    clip_to: Literal["window", "image"] = "window"  # without padding (tv, d2), or the whole image (mp)


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network: head, targets, loss and proposals."""

    channels: int = 512
    coding: BoxCoding = field(default_factory=BoxCoding)
    targets: RPNTargetConfig = field(default_factory=RPNTargetConfig)
    loss: RPNLossConfig = field(default_factory=RPNLossConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)


@dataclass(frozen=True)
class Sampling:
    """Where a RoI's features are sampled on a map, and how a bin's samples become one value (`roi/align.py`)."""

    kind: Literal["bins", "corners"] = "bins"  # RoI Align (tv, d2, the paper) or crop_and_resize (mp)
    sampling_ratio: int = 2  # samples per bin and side; 0: adaptive (d2)
    aligned: bool = True  # half-pixel shift (d2); tv's False
    reduce: Literal["mean", "max"] = "mean"  # over a bin's samples; max: the paper's section 2.4
    max_samples: int = 8  # limit of the adaptive rule


@dataclass(frozen=True)
class LevelConfig:
    """The pyramid level that a RoI is pooled from (FPN eq. 1)."""

    canonical_size: float = 224.0  # side, in pixels, of a RoI that P4 is for
    rounding: Literal["floor", "round"] = "round"
    epsilon: float = 0.0  # added to the logarithm


@dataclass(frozen=True)
class BoxHeadConfig:
    """Two hidden layers over `size` x `size` pooled bins."""

    size: int = 7
    hidden: int = 1024
    class_agnostic: bool = False  # one box a RoI for all classes (d2's CLS_AGNOSTIC_BBOX_REG) instead of one a class


@dataclass(frozen=True)
class MaskHeadConfig:
    """Convolutions over `size` x `size` pooled bins; masks have twice that side."""

    size: int = 14
    channels: int = 256
    layers: int = 4


@dataclass(frozen=True)
class RoITargetConfig:
    """Which RoIs the heads are trained on, and their masks (`roi/targets.py`)."""

    truth_copies: int = 0  # copies of each ground-truth box added to the proposals (tv, d2: 1; mp: 0)
    truth_jitter: float = 0.0  # largest shift of a copy's edges, relative to its sides
    samples: int = 200
    max_positive: int = 66
    positive_iou: float = 0.5
    crowd_iou: float = 0.001  # a RoI of this IoU with a crowd is never negative (mp)
    negatives_per_positive: float | None = None  # mp: 1 / 0.33 - 1, even if slots stay empty
    mask_sampling: Sampling = Sampling(kind="corners")  # crop_and_resize (mp) or adaptive RoI Align (tv, d2)
    binary_masks: bool = True  # rounded (mp, d2) or fractional (tv)


@dataclass(frozen=True)
class RoILossConfig:
    """Losses of the heads (Crystals 2021 eq. 1; `roi/loss.py`)."""

    class_normaliser: Literal["sampled", "slots"] = "sampled"  # mp averages over all slots, unfilled ones included
    box_normaliser: Literal["positive_coordinates", "sampled"] = "positive_coordinates"  # tv, d2: sampled RoIs
    box_beta: float = 1.0


@dataclass(frozen=True)
class RoIConfig:
    """Second stage: pooling, heads, targets and losses."""

    pooling: Sampling = Sampling(kind="corners")
    levels: LevelConfig = field(default_factory=LevelConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    coding: BoxCoding = field(default_factory=BoxCoding)
    targets: RoITargetConfig = field(default_factory=RoITargetConfig)
    loss: RoILossConfig = field(default_factory=RoILossConfig)


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
    # Of convolutions and matrix products; the rest is float32, or float64 with "float64" (in JAX's 64-bit mode).
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    # XLA's own operations; or those of `kernels/`, faster with larger rounding errors: "cpu" in programs that run on a
    # CPU, "gpu" everywhere.
    kernels: Literal["xla", "cpu", "gpu"] = "xla"

    @property
    def num_classes(self) -> int:
        """k, background included."""
        return len(self.classes)

    def to_dict(self) -> dict:
        """Nested dict of numbers, strings and tuples, as written to `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "MaskRCNNConfig":
        """Inverse of `to_dict`, also after JSON made lists of the tuples; fields that are missing have their defaults.

        Raises:
            ValueError: for unknown keys, and values that a field cannot have.
        """
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
            roi=dataclasses.replace(config.roi, pooling=Sampling(reduce="max")),
        )

    @classmethod
    def matterport_coco(cls) -> "MaskRCNNConfig":
        """Matterport's `mask_rcnn_coco.h5`: ResNet101; 512x512 pixels, as in the paper."""
        return cls(
            classes=COCO_CLASSES,
            backbone=BackboneConfig(pool_padding="end"),
            rpn=RPNConfig(proposals=ProposalConfig(clip_to="image")),
            roi=RoIConfig(
                targets=RoITargetConfig(negatives_per_positive=1 / 0.33 - 1),
                loss=RoILossConfig(class_normaliser="slots"),
            ),
            far_edge=1,
        )

    @classmethod
    def torchvision_coco(cls, depth: int = 50) -> "MaskRCNNConfig":
        """Torchvision's `maskrcnn_resnet50_fpn` (v1), or its like on ResNet18, 34 or 101. 91 classes: COCO's ids, gaps
        included.

        Raises:
            ValueError: for another `depth`.
        """
        return cls(
            classes=tuple((i, dict(COCO_CLASSES).get(i, f"unused-{i}")) for i in range(91)),
            image=ImageConfig(
                mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
                std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
                padding="mean",
            ),
            backbone=BackboneConfig.resnet(depth, stride_on="3x3"),
            anchors=AnchorConfig(ratios=(0.5, 1.0, 2.0), rounded=True),
            rpn=RPNConfig(
                channels=256,
                coding=BoxCoding((1.0, 1.0, 1.0, 1.0), MAX_LOG_SCALE),
                loss=RPNLossConfig(box_normaliser="sampled", box_beta=1 / 9),
                proposals=ProposalConfig(
                    per_level=True, before_nms=(2000, 1000), after_nms=(2000, 1000), min_side=1e-3
                ),
            ),
            roi=RoIConfig(
                pooling=Sampling(aligned=False),
                levels=LevelConfig(rounding="floor", epsilon=1e-6),
                coding=BoxCoding(max_log_scale=MAX_LOG_SCALE),
                targets=RoITargetConfig(
                    truth_copies=1,
                    samples=512,
                    max_positive=128,
                    mask_sampling=Sampling(sampling_ratio=0, aligned=False),
                    binary_masks=False,
                ),
                loss=RoILossConfig(box_normaliser="sampled", box_beta=1 / 9),
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
                loss=RPNLossConfig(class_normaliser="slots", box_normaliser="slots", box_beta=0.0),
                proposals=dataclasses.replace(
                    config.rpn.proposals,
                    score="logit",
                    after_nms=(1000, 1000),
                    min_side=1e-6,  # d2 drops empty boxes
                ),
            ),
            roi=dataclasses.replace(
                config.roi,
                pooling=Sampling(sampling_ratio=0),
                # d2 adds 1e-8 inside the logarithm; float32 rounding is of the order of this epsilon
                targets=dataclasses.replace(
                    config.roi.targets, mask_sampling=Sampling(sampling_ratio=0), binary_masks=True
                ),
                loss=dataclasses.replace(config.roi.loss, box_beta=0.0),
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
                coding=BoxCoding((1.0, 1.0, 1.0, 1.0), MAX_LOG_SCALE),
                targets=RPNTargetConfig(samples=128, max_positive=64),
                loss=RPNLossConfig(box_normaliser="sampled", box_beta=1 / 9),
                proposals=ProposalConfig(per_level=True, score="logit", before_nms=(300, 300), after_nms=(200, 150)),
            ),
            roi=RoIConfig(
                pooling=Sampling(sampling_ratio=1),
                levels=LevelConfig(canonical_size=112.0, rounding="floor", epsilon=1e-6),
                box_head=BoxHeadConfig(hidden=128),
                mask_head=MaskHeadConfig(channels=48, layers=2),
                coding=BoxCoding(max_log_scale=MAX_LOG_SCALE),
                targets=RoITargetConfig(truth_copies=2, truth_jitter=0.1, samples=48, max_positive=16),
                loss=RoILossConfig(box_normaliser="sampled", box_beta=1 / 9),
            ),
            detection=DetectionConfig(one_class=False, score_threshold=0.05, nms_iou=0.4, candidates=150),
        )

    @classmethod
    def small(cls) -> "MaskRCNNConfig":
        """`tiny` with more blocks, 3.2 million parameters, and a larger input: for two CPU cores and an hour or two.

        The weights of `tiny` fit it: the blocks that they lack are identities at first.
        """
        config = cls.tiny()
        return dataclasses.replace(
            config,
            image=dataclasses.replace(config.image, size=(384, 512)),
            backbone=dataclasses.replace(config.backbone, depths=(2, 3, 6, 3)),
        )


def _from_dict(cls: Any, values: dict, path: str) -> Any:
    names = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown config keys {', '.join(path + k for k in unknown)}; known: {', '.join(names)}")
    kinds, parts = get_type_hints(cls), {}
    for key, value in values.items():
        if dataclasses.is_dataclass(kinds[key]) and isinstance(value, dict):
            parts[key] = _from_dict(kinds[key], value, f"{path}{key}.")
        else:
            try:
                parts[key] = converted(value, kinds[key])
            except TypeError as error:
                raise ValueError(f"config key {path}{key}: {error}") from error
    return cls(**parts)


def converted(value: Any, kind: Any) -> Any:
    """The value as a field annotated with `kind` has it: lists become tuples, so that a config is hashable.

    >>> converted([1, 2], tuple[float, ...]), converted(3, float | None)
    ((1.0, 2.0), 3.0)

    Raises:
        TypeError: it is not of that kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value in arguments:
        return value
    if origin is UnionType:
        return None if value is None else converted(value, arguments[0])
    if origin is tuple and isinstance(value, list | tuple):
        kinds = (arguments[0],) * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value) > 0:
            return tuple(map(converted, value, kinds))
    if kind is float and isinstance(value, int | float) and type(value) is not bool and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    if origin is Literal:
        raise TypeError(f"{value!r} is none of {', '.join(map(repr, arguments))}")
    raise TypeError(f"{value!r} is not of type {getattr(kind, '__name__', kind)}")


MAX_LOG_SCALE = math.log(1000.0 / 16.0)  # as in boxes/coding.py, which this file may not import
RESNET_DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
