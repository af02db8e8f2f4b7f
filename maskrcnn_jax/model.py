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
from jaxtyping import Array, Float, Int, Num
from jaxtyping import PRNGKeyArray as Key

from maskrcnn_jax.backbone.fpn import FPN
from maskrcnn_jax.backbone.resnet import ResNet
from maskrcnn_jax.boxes.sampling import image_keys
from maskrcnn_jax.config import STRIDES, MaskRCNNConfig
from maskrcnn_jax.image.normalise import as_batch, normalise
from maskrcnn_jax.layers import Compute
from maskrcnn_jax.roi.align import assign_levels, pyramid_roi_align
from maskrcnn_jax.roi.box_head import BoxHead
from maskrcnn_jax.roi.detections import Refined, select_detections
from maskrcnn_jax.roi.loss import roi_losses
from maskrcnn_jax.roi.mask_head import MaskHead
from maskrcnn_jax.roi.targets import RoITargets, roi_targets
from maskrcnn_jax.rpn.anchors import pyramid_anchors
from maskrcnn_jax.rpn.head import RPNHead
from maskrcnn_jax.rpn.loss import rpn_losses
from maskrcnn_jax.rpn.proposals import Ranked, propose
from maskrcnn_jax.rpn.targets import RPNTargets, rpn_targets
from maskrcnn_jax.structures import Detections, GroundTruth, Losses, Proposals, Pyramid, Stages

Images = Num[Array | np.ndarray, "b h w 3"]
Windows = Float[Array | np.ndarray, "b 4"]
Boxes = Float[Array, "b r 4"]
Logits = Float[Array, "b a"]  # of every anchor
Deltas = Float[Array, "b a 4"]
Axis = str | None  # of a mesh


class Supervision(NamedTuple):
    """Targets of a training step, with a batch dimension in front, and the resulting losses."""

    anchors: RPNTargets
    proposals: Proposals
    rois: RoITargets
    losses: Losses


class MaskRCNN(nnx.Module):
    """Mask R-CNN (He et al. 2017) of a `MaskRCNNConfig`, which is static; its weights are drawn with `rngs`.

    Images are letterboxed RGB values 0-255 [b, h, w, 3], uint8 or float, height and width divisible by 64. Values 0-1
    would be taken for black; they are refused unless they are traced. `windows` [b, 4] are the parts of the images that
    are not padding, in pixels (default: the whole images).

    Raises:
        TypeError, ValueError: for another config, and for images or windows of other shapes.

    >>> model = nnx.eval_shape(lambda: MaskRCNN(MaskRCNNConfig.tiny(), rngs=nnx.Rngs(0)))  # shapes alone
    >>> images = jnp.zeros((2, 256, 320, 3), jnp.uint8)
    >>> nnx.eval_shape(lambda model: model.detect(images), model).masks.shape
    (2, 100, 28, 28)
    """

    def __init__(self, config: MaskRCNNConfig, *, rngs: nnx.Rngs):
        if not isinstance(config, MaskRCNNConfig):
            raise TypeError(f"MaskRCNN: config is {config!r}; give a MaskRCNNConfig, such as MaskRCNNConfig.tiny()")
        if config.anchors.strides != STRIDES:
            raise ValueError(f"MaskRCNN: anchors.strides is {config.anchors.strides}; the pyramid's are {STRIDES}")
        channels, k, per_cell = config.fpn_channels, config.num_classes, len(config.anchors.ratios)
        build: dict[str, Any] = dict(compute=Compute(config.compute_dtype, config.kernels), rngs=rngs)
        self.config = config
        self.backbone = ResNet(config.backbone, **build)
        self.fpn = FPN(config.backbone.channels, channels, **build)
        self.rpn = RPNHead(channels, config.rpn.channels, anchors_per_cell=per_cell, **build)
        self.box_head = BoxHead(channels, config.roi.box_head, num_classes=k, **build)
        self.mask_head = MaskHead(channels, config.roi.mask_head, num_classes=k, **build)

    __signature__ = inspect.signature(__init__.__get__(object()))  # for `help`: NNX's metaclass hides it

    # -- the parts, in the order of the data ---------------------------------------------------------------------------

    def features(
        self, images: Images, windows: Windows | None = None
    ) -> tuple[tuple[Float[Array, "b _ _ _"], ...], Pyramid]:
        """((C1..C5), P2..P6)."""
        maps = self.backbone(normalise(*as_batch(images, windows), config=self.config.image))
        return maps, self.fpn(maps[1:])

    def anchors(self, height: int, width: int) -> Float[np.ndarray, "a 4"]:
        """All anchors of an image of height x width pixels, float32."""
        a = self.config.anchors
        return pyramid_anchors((height, width), strides=a.strides, sizes=a.sizes, ratios=a.ratios, rounded=a.rounded)

    def rank(
        self, objectness: Logits, deltas: Deltas, windows: Windows, *, size: tuple[int, int], training: bool = False
    ) -> Ranked:
        """Candidates for proposals of images of `size` (height, width) and their selection, with a batch dimension."""
        rpn, anchors, edge = self.config.rpn, self.config.anchors, self._far_edge()
        if rpn.proposals.clip_to == "image":
            windows = jnp.broadcast_to(jnp.array([0.0, 0.0, size[1], size[0]]), windows.shape)
        base = jnp.asarray(self.anchors(*size))
        cells = [-(-size[0] // stride) * -(-size[1] // stride) for stride in anchors.strides]
        level_sizes = tuple(len(anchors.ratios) * n for n in cells)
        one_image = partial(
            propose, level_sizes=level_sizes, config=rpn.proposals, coding=rpn.coding, training=training
        )
        ranked = jax.vmap(one_image, (0, 0, None, 0))(objectness, deltas, base - edge, windows - edge)
        return ranked._replace(boxes=ranked.boxes + edge)

    def propose(
        self, objectness: Logits, deltas: Deltas, windows: Windows, *, size: tuple[int, int], training: bool = False
    ) -> Proposals:
        """Proposals from the RPN's outputs for images of `size` (height, width)."""
        return jax.vmap(Ranked.proposals)(self.rank(objectness, deltas, windows, size=size, training=training))

    def levels(self, boxes: Boxes, *, size: tuple[int, int]) -> Int[Array, "b r"]:
        """Pyramid level, 2 to 5, that each box in images of `size` (height, width) is pooled from."""
        # Matterport divides boxes by (size - 1), which makes them larger relative to the canonical size.
        (height, width), edge, rule = size, self.config.far_edge, self.config.roi.levels
        scale = (height * width / ((height - edge) * (width - edge))) ** 0.5
        sides = (boxes - self._far_edge()) * scale
        return assign_levels(sides, canonical_size=rule.canonical_size, rounding=rule.rounding, epsilon=rule.epsilon)

    def pool(self, pyramid: Pyramid, boxes: Boxes, *, output_size: int) -> Float[Array, "b r o o c"]:
        """Pooled features of every box, each from its level of P2..P5."""
        size = pyramid.image_size
        return pyramid_roi_align(
            pyramid[:4],
            boxes,
            roi_levels=self.levels(boxes, size=size),
            image_size=size,
            output_size=output_size,
            sampling=self.config.roi.pooling,
            far_edge=self.config.far_edge,
            kernels=self.config.kernels,
        )

    def classify(self, pyramid: Pyramid, boxes: Boxes) -> tuple[Float[Array, "b r k"], Float[Array, "b r k 4"]]:
        """Class logits and box deltas of every box."""
        pooled = self.pool(pyramid, boxes, output_size=self.config.roi.box_head.size)
        logits, deltas = self.box_head(pooled.reshape(-1, *pooled.shape[2:]))
        return logits.reshape(*boxes.shape[:2], -1), deltas.reshape(*boxes.shape[:2], -1, 4)

    def outline(
        self, pyramid: Pyramid, boxes: Boxes, classes: Int[Array, "b r"] | None = None
    ) -> Float[Array, "b r m m k"] | Float[Array, "b r m m"]:
        """Mask logits of every box, one mask per class, or with `classes` only that of each box's class."""
        pooled = self.pool(pyramid, boxes, output_size=self.config.roi.mask_head.size)
        own = None if classes is None else classes.reshape(-1)
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]), own)
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def refine(
        self,
        class_logits: Float[Array, "b p k"],
        box_deltas: Float[Array, "b p k 4"],
        proposals: Proposals,
        windows: Windows,
    ) -> Refined:
        """Candidates for detections and their selection, with a batch dimension in front."""
        config = self.config
        select = partial(select_detections, config=config.detection, coding=config.roi.coding, far_edge=config.far_edge)
        return jax.vmap(select)(class_logits, box_deltas, proposals, windows)

    def detection_masks(self, pyramid: Pyramid, detections: Detections) -> Float[Array, "b d m m"]:
        """Mask probabilities of every detection, for its class."""
        return jax.nn.sigmoid(self.outline(pyramid, detections.boxes, detections.classes))

    # -- the whole -----------------------------------------------------------------------------------------------------

    def stages(self, images: Images, windows: Windows | None = None) -> Stages:
        """One forward pass at inference, with all intermediate results."""
        images, windows = as_batch(images, windows)
        maps, pyramid = self.features(images, windows)
        size = pyramid.image_size
        objectness, rpn_deltas = self.rpn(pyramid)
        proposals = self.propose(objectness, rpn_deltas, windows, size=size)
        class_logits, box_deltas = self.classify(pyramid, proposals.boxes)
        detections = jax.vmap(Refined.detections)(self.refine(class_logits, box_deltas, proposals, windows))
        return Stages(
            **dict(zip(("c1", "c2", "c3", "c4", "c5"), maps, strict=True)),
            **pyramid._asdict(),
            objectness=objectness,
            rpn_deltas=rpn_deltas,
            anchors=jnp.asarray(self.anchors(*size)),
            proposals=proposals,
            class_logits=class_logits,
            box_deltas=box_deltas,
            detections=detections._replace(masks=self.detection_masks(pyramid, detections)),
        )

    def detect(self, images: Images, windows: Windows | None = None) -> Detections:
        """Detections of a batch of images; `roi/masks.py` pastes their masks into pixels."""
        return self.stages(images, windows).detections

    def losses(
        self, images: Images, truth: GroundTruth, key: Key, windows: Windows | None = None, *, axis: Axis = None
    ) -> Losses:
        """The five losses of a batch (Crystals 2021, eq. 1 and 2). Anchors and RoIs are sampled with `key`.

        Under `shard_map` over `axis`, the arguments are this device's shard of the batch, and its losses are terms of
        the whole batch's losses.
        """
        return self.compare(images, truth, key, windows, axis=axis).losses

    def compare(
        self, images: Images, truth: GroundTruth, key: Key, windows: Windows | None = None, *, axis: Axis = None
    ) -> Supervision:
        """Like `losses`, with the targets that they are computed from."""
        images, windows = as_batch(images, windows)
        _, pyramid = self.features(images, windows)
        return self.supervise(pyramid, *self.rpn(pyramid), truth, key, windows, axis=axis)

    def supervise(
        self,
        pyramid: Pyramid,
        objectness: Logits,
        rpn_deltas: Deltas,
        truth: GroundTruth,
        key: Key,
        windows: Windows,
        *,
        axis: Axis = None,
    ) -> Supervision:
        """Targets and losses from the outputs of FPN and RPN."""
        rpn, roi, size = self.config.rpn, self.config.roi, pyramid.image_size
        anchor_keys, roi_keys = image_keys(key, objectness.shape[0], axis=axis)

        label_anchors = partial(rpn_targets, config=rpn.targets, coding=rpn.coding)
        anchors = jax.vmap(label_anchors, (0, None, 0))(anchor_keys, jnp.asarray(self.anchors(*size)), truth)
        rpn_class, rpn_box = rpn_losses(objectness, rpn_deltas, anchors, config=rpn.loss, axis=axis)

        proposals = self.propose(*jax.lax.stop_gradient((objectness, rpn_deltas)), windows, size=size, training=True)
        cells, edge = 2 * roi.mask_head.size, self.config.far_edge
        label_rois = partial(roi_targets, config=roi.targets, coding=roi.coding, mask_size=cells, far_edge=edge)
        rois = jax.vmap(label_rois)(roi_keys, proposals, truth)
        class_logits, box_deltas = self.classify(pyramid, rois.boxes)
        positives = rois.boxes[:, : roi.targets.max_positive], rois.classes[:, : roi.targets.max_positive]
        mask_logits = self.outline(pyramid, *positives)
        roi_class, roi_box, roi_mask = roi_losses(
            class_logits, box_deltas, mask_logits, rois, config=roi.loss, axis=axis
        )
        total = rpn_class + rpn.loss.box_weight * rpn_box + roi_class + roi_box + roi_mask
        return Supervision(anchors, proposals, rois, Losses(rpn_class, rpn_box, roi_class, roi_box, roi_mask, total))

    def _far_edge(self) -> Float[Array, " 4"]:
        return jnp.array([0.0, 0.0, self.config.far_edge, self.config.far_edge])
