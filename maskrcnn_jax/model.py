"""Mask R-CNN as a whole: image -> backbone -> RPN -> heads -> detections. Only this module reads the whole config.

Gradients flow from every loss into the features, and from the RPN's losses into its outputs, but not from the heads
into the coordinates of the proposals (as in torchvision and Detectron2, unlike Matterport). Functions on boxes are
written for one image and `vmap`ped here.
"""

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray

from maskrcnn_jax.backbone.fpn import FPN
from maskrcnn_jax.backbone.resnet import ResNet
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.roi.align import assign_levels, pyramid_roi_align
from maskrcnn_jax.roi.box_head import BoxHead
from maskrcnn_jax.roi.detections import Refined, select_detections
from maskrcnn_jax.roi.grid import Samples, pyramid_grid, pyramid_maps
from maskrcnn_jax.roi.loss import roi_losses
from maskrcnn_jax.roi.mask_head import MaskHead
from maskrcnn_jax.roi.targets import RoITargets, roi_targets
from maskrcnn_jax.rpn.anchors import pyramid_anchors
from maskrcnn_jax.rpn.head import RPNHead
from maskrcnn_jax.rpn.loss import rpn_losses
from maskrcnn_jax.rpn.proposals import Ranked, propose
from maskrcnn_jax.rpn.targets import RPNTargets, rpn_targets
from maskrcnn_jax.structures import Detections, GroundTruth, Losses, Proposals, Pyramid, Stages

Images = Num[Array, "b h w 3"]
Windows = Float[Array, "b 4"]


class Supervision(NamedTuple):
    """Targets of a training step, with a batch dimension in front, and the resulting losses."""

    anchors: RPNTargets
    proposals: Proposals
    rois: RoITargets
    losses: Losses


class MaskRCNN(nnx.Module):
    """He et al. 2017. Inputs are letterboxed RGB values 0-255 [b, h, w, 3] (uint8 or float), height and width divisible
    by 64; `windows` [b, 4] are the parts that are not padding (default: the whole images).
    """

    def __init__(self, config: MaskRCNNConfig, *, rngs: nnx.Rngs):
        dtype, channels, roi = config.compute_dtype, config.fpn_channels, config.roi
        self.config = config
        self.backbone = ResNet(config.backbone, dtype=dtype, rngs=rngs)
        self.fpn = FPN(config.backbone.channels, channels, dtype=dtype, rngs=rngs)
        self.rpn = RPNHead(
            channels, config.rpn.channels, anchors_per_cell=len(config.anchors.ratios), dtype=dtype, rngs=rngs
        )
        self.box_head = BoxHead(
            channels,
            pooled_size=roi.box_size,
            hidden=roi.box_hidden,
            num_classes=config.num_classes,
            dtype=dtype,
            rngs=rngs,
        )
        self.mask_head = MaskHead(
            channels,
            channels=roi.mask_channels,
            layers=roi.mask_layers,
            num_classes=config.num_classes,
            dtype=dtype,
            rngs=rngs,
        )

    __signature__ = inspect.signature(__init__.__get__(object()))  # for `help`: NNX's metaclass hides it

    # -- parts ---------------------------------------------------------------------------------------------------------

    def normalise(self, images: Images, windows: Windows | None = None) -> Float[Array, "b h w 3"]:
        """(values - mean) / std; with `padding = "mean"`, 0 outside the windows."""
        settings = self.config.image
        values = (images.astype(jnp.float32) - jnp.array(settings.mean)) / jnp.array(settings.std)
        if settings.padding == "black" or windows is None:
            return values
        x1, y1, x2, y2 = (windows[:, i, None, None] for i in range(4))
        rows, columns = jnp.arange(images.shape[1])[:, None] + 0.5, jnp.arange(images.shape[2]) + 0.5
        inside = (rows > y1) & (rows < y2) & (columns > x1) & (columns < x2)
        return jnp.where(inside[..., None], values, 0.0)

    def anchors(self, height: int, width: int) -> Float[np.ndarray, "a 4"]:
        """All anchors of an image of height x width pixels, float32."""
        a = self.config.anchors
        return pyramid_anchors((height, width), strides=a.strides, sizes=a.sizes, ratios=a.ratios, rounded=a.rounded)

    def features(
        self, images: Images, windows: Windows | None = None
    ) -> tuple[tuple[Float[Array, "b _ _ _"], ...], Pyramid]:
        """((C1..C5), P2..P6)."""
        maps = self.backbone(self.normalise(images, windows))
        return maps, self.fpn(maps[1:])

    def rank(
        self,
        objectness: Float[Array, "b a"],
        deltas: Float[Array, "b a 4"],
        windows: Windows,
        *,
        size: tuple[int, int],
        training: bool,
    ) -> Ranked:
        """Candidates for proposals and their selection, with a batch dimension in front."""
        rpn, edge, phase = self.config.rpn, self._far_edge(), 0 if training else 1
        if rpn.clip_to == "image":
            windows = jnp.broadcast_to(jnp.array([0.0, 0.0, size[1], size[0]]), windows.shape)
        one_image = partial(
            propose,
            level_sizes=self._level_sizes(size),
            per_level=rpn.per_level,
            score=rpn.score,
            before_nms=rpn.before_nms[phase],
            after_nms=rpn.after_nms[phase],
            nms_iou=rpn.nms_iou,
            min_side=rpn.min_side,
            delta_weights=rpn.delta_weights,
            max_log_scale=rpn.max_log_scale,
        )
        anchors = jnp.asarray(self.anchors(*size)) - edge
        ranked = jax.vmap(one_image, (0, 0, None, 0))(objectness, deltas, anchors, windows - edge)
        return ranked._replace(boxes=ranked.boxes + edge)

    def propose(
        self,
        objectness: Float[Array, "b a"],
        deltas: Float[Array, "b a 4"],
        windows: Windows,
        *,
        size: tuple[int, int],
        training: bool,
    ) -> Proposals:
        """Proposals from the RPN's outputs for images of `size` (height, width)."""
        return jax.vmap(Ranked.proposals)(self.rank(objectness, deltas, windows, size=size, training=training))

    def levels(self, boxes: Float[Array, "b r 4"], *, size: tuple[int, int]) -> Int[Array, "b r"]:
        """Pyramid level, 2 to 5, that each box is pooled from."""
        roi, far_edge = self.config.roi, self.config.far_edge
        # Matterport divides boxes by (size - 1), which makes them larger relative to the canonical size.
        height, width = size
        scale = (height * width / ((height - far_edge) * (width - far_edge))) ** 0.5
        return assign_levels(
            (boxes - self._far_edge()) * scale,
            canonical_size=roi.canonical_size,
            rounding=roi.level_rounding,
            epsilon=roi.level_epsilon,
        )

    def pool(
        self, pyramid: Pyramid, boxes: Float[Array, "b r 4"], *, size: tuple[int, int], output_size: int
    ) -> Float[Array, "b r o o c"]:
        """Pooled features of every box, each from its level of P2..P5."""
        return pyramid_roi_align(
            pyramid[:4],
            boxes,
            roi_levels=self.levels(boxes, size=size),
            image_size=size,
            output_size=output_size,
            reduce=self.config.roi.reduce,
            **self._sampling(),
        )

    def grid(
        self, pyramid: Pyramid, boxes: Float[Array, "b r 4"], *, size: tuple[int, int], output_size: int
    ) -> tuple[Samples, Samples]:
        """Sampling points of `pool`: (rows, columns) of every box, in cells of its level; b and r flattened."""
        maps = pyramid_maps(pyramid[:4], self.levels(boxes, size=size))
        return pyramid_grid(boxes.reshape(-1, 4), maps, image_size=size, bins=output_size, **self._sampling())

    def classify(
        self, pyramid: Pyramid, boxes: Float[Array, "b r 4"], *, size: tuple[int, int]
    ) -> tuple[Float[Array, "b r k"], Float[Array, "b r k 4"]]:
        """Class logits and box deltas of every box."""
        pooled = self.pool(pyramid, boxes, size=size, output_size=self.config.roi.box_size)
        logits, deltas = self.box_head(pooled.reshape(-1, *pooled.shape[2:]))
        return logits.reshape(*boxes.shape[:2], -1), deltas.reshape(*boxes.shape[:2], -1, 4)

    def outline(
        self, pyramid: Pyramid, boxes: Float[Array, "b r 4"], *, size: tuple[int, int]
    ) -> Float[Array, "b r m m k"]:
        """Mask logits of every box, one mask per class."""
        pooled = self.pool(pyramid, boxes, size=size, output_size=self.config.roi.mask_size)
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]))
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def refine(
        self,
        class_logits: Float[Array, "b p k"],
        box_deltas: Float[Array, "b p k 4"],
        proposals: Proposals,
        windows: Windows,
    ) -> Refined:
        """Candidates for detections and their selection, with a batch dimension in front."""
        roi, settings = self.config.roi, self.config.detection
        one_image = partial(
            select_detections,
            one_class=settings.one_class,
            score_threshold=settings.score_threshold,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
            candidates=settings.candidates,
            min_side=settings.min_side,
            delta_weights=roi.delta_weights,
            max_log_scale=roi.max_log_scale,
            far_edge=self.config.far_edge,
        )
        return jax.vmap(one_image)(class_logits, box_deltas, proposals.boxes, proposals.valid, windows)

    def detection_masks(
        self, pyramid: Pyramid, detections: Detections, *, size: tuple[int, int]
    ) -> Float[Array, "b d m m"]:
        """Mask probabilities of every detection, for its class."""
        logits = self.outline(pyramid, detections.boxes, size=size)
        classes = detections.classes[..., None, None, None]
        return jax.nn.sigmoid(jnp.take_along_axis(logits, classes, axis=-1)[..., 0])

    # -- the whole -----------------------------------------------------------------------------------------------------

    def stages(self, images: Images, windows: Windows | None = None) -> Stages:
        """One forward pass at inference, with all intermediate results."""
        size = (images.shape[1], images.shape[2])
        windows = self._windows(images, windows)
        (c1, c2, c3, c4, c5), pyramid = self.features(images, windows)
        objectness, rpn_deltas = self.rpn(pyramid)
        proposals = self.propose(objectness, rpn_deltas, windows, size=size, training=False)
        class_logits, box_deltas = self.classify(pyramid, proposals.boxes, size=size)
        detections = jax.vmap(Refined.detections)(self.refine(class_logits, box_deltas, proposals, windows))
        masks = self.detection_masks(pyramid, detections, size=size)
        return Stages(
            c1=c1,
            c2=c2,
            c3=c3,
            c4=c4,
            c5=c5,
            **pyramid._asdict(),
            objectness=objectness,
            rpn_deltas=rpn_deltas,
            anchors=jnp.asarray(self.anchors(*size)),
            proposals=proposals,
            class_logits=class_logits,
            box_deltas=box_deltas,
            detections=detections._replace(masks=masks),
        )

    def detect(self, images: Images, windows: Windows | None = None) -> Detections:
        """Detections of a batch of images; `roi/masks.py` pastes their masks into pixels."""
        return self.stages(images, windows).detections

    def losses(
        self,
        images: Images,
        truth: GroundTruth,
        key: PRNGKeyArray,
        windows: Windows | None = None,
        *,
        axis: str | None = None,
    ) -> Losses:
        """The five losses of a batch (Crystals 2021, eq. 1 and 2). Anchors and RoIs are sampled with `key`.

        Under `shard_map` over `axis`, the arguments are this device's shard of the batch, and its losses are terms of
        the whole batch's losses. The samples of an image do not depend on the device that it is on.
        """
        return self.compare(images, truth, key, windows, axis=axis).losses

    def compare(
        self,
        images: Images,
        truth: GroundTruth,
        key: PRNGKeyArray,
        windows: Windows | None = None,
        *,
        axis: str | None = None,
    ) -> Supervision:
        """Like `losses`, with the targets that they are computed from."""
        windows = self._windows(images, windows)
        _, pyramid = self.features(images, windows)
        size = (images.shape[1], images.shape[2])
        return self.supervise(pyramid, *self.rpn(pyramid), truth, key, windows, size=size, axis=axis)

    def supervise(
        self,
        pyramid: Pyramid,
        objectness: Float[Array, "b a"],
        rpn_deltas: Float[Array, "b a 4"],
        truth: GroundTruth,
        key: PRNGKeyArray,
        windows: Windows,
        *,
        size: tuple[int, int],
        axis: str | None = None,
    ) -> Supervision:
        """Targets and losses from the outputs of FPN and RPN."""
        rpn, roi = self.config.rpn, self.config.roi
        anchor_keys, roi_keys = self._image_keys(key, objectness.shape[0], axis)

        label_anchors = partial(
            rpn_targets,
            samples=rpn.samples,
            max_positive=rpn.max_positive,
            positive_iou=rpn.positive_iou,
            negative_iou=rpn.negative_iou,
            crowd_iou=rpn.crowd_iou,
            delta_weights=rpn.delta_weights,
        )
        anchors = jnp.asarray(self.anchors(*size))
        for_rpn = jax.vmap(label_anchors, (0, None, 0, 0, 0))(
            anchor_keys, anchors, truth.boxes, truth.valid, truth.crowd
        )
        rpn_class, rpn_box = rpn_losses(
            objectness,
            rpn_deltas,
            for_rpn,
            class_normaliser=rpn.class_normaliser,
            box_normaliser=rpn.box_normaliser,
            box_beta=rpn.box_beta,
            axis=axis,
        )

        proposals = self.propose(*jax.lax.stop_gradient((objectness, rpn_deltas)), windows, size=size, training=True)
        label_rois = partial(
            roi_targets,
            samples=roi.samples,
            max_positive=roi.max_positive,
            positive_iou=roi.positive_iou,
            crowd_iou=rpn.crowd_iou,
            negatives_per_positive=roi.negatives_per_positive,
            truth_copies=roi.truth_copies,
            truth_jitter=roi.truth_jitter,
            delta_weights=roi.delta_weights,
            mask_size=2 * roi.mask_size,
            mask_sampling=roi.mask_targets,
            binary_masks=roi.binary_mask_targets,
            aligned=roi.aligned,
            far_edge=self.config.far_edge,
        )
        for_heads = jax.vmap(label_rois)(
            roi_keys,
            proposals.boxes,
            proposals.valid,
            truth.boxes,
            truth.classes,
            truth.masks,
            truth.valid,
            truth.crowd,
        )
        class_logits, box_deltas = self.classify(pyramid, for_heads.boxes, size=size)
        mask_logits = self.outline(pyramid, for_heads.boxes[:, : roi.max_positive], size=size)
        roi_class, roi_box, roi_mask = roi_losses(
            class_logits,
            box_deltas,
            mask_logits,
            for_heads,
            class_normaliser=roi.class_normaliser,
            box_normaliser=roi.box_normaliser,
            box_beta=roi.box_beta,
            axis=axis,
        )
        total = rpn_class + rpn.box_weight * rpn_box + roi_class + roi_box + roi_mask
        losses = Losses(rpn_class, rpn_box, roi_class, roi_box, roi_mask, total)
        return Supervision(for_rpn, proposals, for_heads, losses)

    # -- conventions ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _image_keys(key: PRNGKeyArray, b: int, axis: str | None) -> Key[Array, "2 b"]:
        """Keys of each image, for anchors and for RoIs; over `axis`, this device's part of the whole batch's."""
        if axis is None:
            return jax.random.split(key, (2, b))
        keys = jax.random.split(key, (2, b * jax.lax.axis_size(axis)))
        return jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(axis) * b, b, axis=1)

    def _sampling(self) -> dict[str, Any]:
        roi = self.config.roi
        return dict(
            pooling=roi.pooling,
            far_edge=self.config.far_edge,
            sampling_ratio=roi.sampling_ratio,
            aligned=roi.aligned,
            max_samples=roi.max_samples,
        )

    def _far_edge(self) -> Float[Array, " 4"]:
        return jnp.array([0.0, 0.0, self.config.far_edge, self.config.far_edge])

    def _level_sizes(self, size: tuple[int, int]) -> tuple[int, ...]:
        ratios = len(self.config.anchors.ratios)
        return tuple(-(-size[0] // s) * -(-size[1] // s) * ratios for s in self.config.anchors.strides)

    @staticmethod
    def _windows(images: Images, windows: Windows | None) -> Windows:
        b, h, w, _ = images.shape
        return jnp.tile(jnp.array([0.0, 0.0, w, h]), (b, 1)) if windows is None else windows
