"""What a user reads who gives a public function something that it cannot take: one sentence for every slip."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import maskrcnn_jax as m
from maskrcnn_jax import checks
from maskrcnn_jax.backbone.fpn import FPN
from maskrcnn_jax.backbone.resnet import ResNet
from maskrcnn_jax.boxes.geometry import clip_to_window, intersection
from maskrcnn_jax.boxes.sampling import sample_balanced
from maskrcnn_jax.config import AnchorConfig, Sampling
from maskrcnn_jax.image.lab import lab_to_rgb, rgb_to_lab
from maskrcnn_jax.image.normalise import as_batch
from maskrcnn_jax.layers import Compute, Conv, make_norm
from maskrcnn_jax.losses import masked_mean, smooth_l1
from maskrcnn_jax.roi.box_head import BoxHead

BOXES, SCORES, TABLE = np.tile(np.float32([0, 0, 4, 4]), (3, 1)), np.zeros(3, np.float32), np.zeros((2, 3), np.float32)
BOX, MASK, GREY, COLOUR = BOXES[0], np.ones((2, 2)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
FIVE, COARSE = np.zeros((3, 5)), jnp.zeros((3, 4), jnp.bfloat16)
BATCH, from_dict = np.zeros((1, 64, 64, 3)), m.MaskRCNNConfig.from_dict
MAP, LEVELS = np.ones((4, 4, 2), np.float32), np.full((1, 3), 2)
NAN, KEY, LABEL = float("nan"), jax.random.key(0), np.zeros(3, int)


@pytest.fixture(autouse=True)
def as_installed():
    """Switch off the tests' shape checks, to see the errors that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def nms(boxes=BOXES, scores=SCORES, iou_threshold=0.5, max_outputs=3, **options):
    return m.nms(boxes, scores, iou_threshold=iou_threshold, max_outputs=max_outputs, **options)


def match(iou=TABLE, positive_iou=0.7, negative_iou=0.3, **options):
    return m.match(iou, positive_iou=positive_iou, negative_iou=negative_iou, allow_low_quality=True, **options)


def anchors(image_size=(8, 8), strides=(4, 8), sizes=(8, 16), ratios=(1.0,)):
    return m.pyramid_anchors(image_size, strides=strides, sizes=sizes, ratios=ratios)


def sample(label=LABEL, total=3, max_positive=1, **options):
    return sample_balanced(KEY, label, total=total, max_positive=max_positive, **options)


def resnet(**options):
    config = m.config.BackboneConfig(depths=(0, 0, 0, 0), stem_channels=1, **options)
    return ResNet(config, rngs=nnx.Rngs(0))


def roi_align(features=MAP, boxes=BOXES, output_size=2, **options):
    return m.roi_align(features, boxes, output_size=output_size, **options)


def pyramid_roi_align(levels=(MAP[None],), boxes=BOXES[None], roi_levels=LEVELS, image_size=(8, 8), kind="bins"):
    options = dict(image_size=image_size, output_size=2, sampling=Sampling(kind))
    return m.pyramid_roi_align(levels, boxes, roi_levels=roi_levels, **options)


def paste(mask=MASK, box=BOX, height=8, width=8, **options):
    return m.paste(mask, box, height=height, width=width, **options)


# The call, and the whole sentence.
SLIPS = {
    "boxes": [
        (lambda: m.area(FIVE), "area: boxes has shape [3, 5]; give an array [..., 4]"),
        (lambda: m.area(COARSE), "area: boxes is bfloat16, too coarse for pixels; give boxes.astype(jnp.float32)"),
        (lambda: m.area([[0, 0, 4, 4]]), "area: boxes is a list; give a NumPy or JAX array"),
        (lambda: m.area(BOXES > 0), "area: boxes is bool; give floats or integers"),
        (lambda: m.iou(FIVE, BOXES), "iou: a has shape [3, 5]; give an array [n, 4]"),
        (lambda: m.iou(BOXES, BOX), "iou: b has shape [4]; give an array [m, 4]"),
        (lambda: intersection(BOXES, BOX), "intersection: b has shape [4]; give an array [m, 4]"),
        (lambda: m.clip(FIVE, 8, 8), "clip: boxes has shape [3, 5]; give an array [..., 4]"),
        (lambda: m.clip(BOXES, -8, 8), "clip: height is -8; give a number of at least 0"),
        (lambda: m.clip(BOXES, 8, NAN), "clip: width is nan; give a number of at least 0"),
        (lambda: clip_to_window(BOXES, BOXES), "clip_to_window: window has shape [3, 4]; give an array [4]"),
    ],
    "coding": [
        (lambda: m.encode(FIVE, BOXES), "encode: boxes has shape [3, 5]; give an array [..., 4]"),
        (lambda: m.encode(BOXES, FIVE), "encode: anchors has shape [3, 5]; give an array [..., 4]"),
        (lambda: m.encode(BOXES, BOXES[:2]), "encode: boxes has 3 rows but anchors has 2; give as many of both"),
        (
            lambda: m.encode(COARSE, BOXES),
            "encode: boxes is bfloat16, too coarse for pixels; give boxes.astype(jnp.float32)",
        ),
        (
            lambda: m.encode(BOXES, BOXES, (10, 5)),
            "encode: weights are (10, 5); give four, for x, y, width and height",
        ),
        (lambda: m.encode(BOXES, BOXES, (0, 1, 1, 1)), "encode: one of weights is 0; give a number above 0"),
        (lambda: m.decode(FIVE, BOXES), "decode: deltas has shape [3, 5]; give an array [..., 4]"),
        (lambda: m.decode(BOXES, BOXES, (1, 1, -1, 1)), "decode: one of weights is -1; give a number above 0"),
        (
            lambda: m.decode(BOXES, BOXES, max_log_scale=NAN),
            "decode: max_log_scale is nan; give a number, or None for no bound",
        ),
    ],
    "nms": [
        (lambda: nms(FIVE), "nms: boxes has shape [3, 5]; give an array [n, 4]"),
        (lambda: nms(COARSE), "nms: boxes is bfloat16, too coarse for pixels; give boxes.astype(jnp.float32)"),
        (lambda: nms(scores=np.zeros(5)), "nms: boxes has 3 rows but scores has 5; give as many of both"),
        (lambda: nms(scores=np.zeros((3, 2))), "nms: scores has shape [3, 2]; give an array [n]"),
        (lambda: nms(valid=np.ones(2, bool)), "nms: boxes has 3 rows but valid has 2; give as many of both"),
        (lambda: nms(valid=np.ones(3)), "nms: valid is float64; give booleans"),
        (lambda: nms(groups=np.zeros(4, int)), "nms: boxes has 3 rows but groups has 4; give as many of both"),
        (lambda: nms(groups=np.zeros(3)), "nms: groups is float64; give integers"),
        (lambda: nms(iou_threshold=50), "nms: iou_threshold is 50; give a number from 0 to 1"),
        (lambda: nms(iou_threshold=NAN), "nms: iou_threshold is nan; give a number from 0 to 1"),
        (lambda: nms(iou_threshold="0.5"), "nms: iou_threshold is '0.5'; give a number"),
        (lambda: nms(max_outputs=-1), "nms: max_outputs is -1; give an integer of at least 0"),
        (
            lambda: nms(max_outputs=2.5),
            "nms: max_outputs is 2.5; give an integer of at least 0, static under jit",
        ),
    ],
    "match": [
        (lambda: match(SCORES), "match: iou has shape [3]; give an array [g, n]"),
        (lambda: match(positive_iou=70), "match: positive_iou is 70; give a number from 0 to 1"),
        (lambda: match(negative_iou=-1), "match: negative_iou is -1; give a number from 0 to positive_iou, 0.7"),
        (lambda: match(negative_iou=0.8), "match: negative_iou is 0.8; give a number from 0 to positive_iou, 0.7"),
        (lambda: match(gt_valid=np.ones(3, bool)), "match: iou has 2 rows but gt_valid has 3; give as many of both"),
        (lambda: match(gt_valid=np.ones(2)), "match: gt_valid is float64; give booleans"),
    ],
    "sampling": [
        (lambda: sample(SCORES), "sample_balanced: label is float32; give integers"),
        (lambda: sample(np.zeros((1, 3), int)), "sample_balanced: label has shape [1, 3]; give an array [n]"),
        (lambda: sample(total=-1), "sample_balanced: total is -1; give an integer of at least 0"),
        (lambda: sample(max_positive=-1), "sample_balanced: max_positive is -1; give an integer of at least 0"),
        (lambda: sample(max_positive=5), "sample_balanced: max_positive is 5; give a number from 0 to 3"),
        (
            lambda: sample(negatives_per_positive=-1),
            "sample_balanced: negatives_per_positive is -1; give a number of at least 0",
        ),
    ],
    "anchors": [
        (
            lambda: anchors(sizes=(8,)),
            "pyramid_anchors: 2 strides but 1 sizes; give one anchor size for each level",
        ),
        (lambda: anchors(strides=(-4, 8)), "pyramid_anchors: one of strides is -4; give an integer of at least 1"),
        (lambda: anchors(sizes=(8, 0)), "base_anchors: size is 0; give a number above 0"),
        (lambda: anchors(ratios=(-1.0,)), "base_anchors: one of ratios is -1.0; give a number above 0"),
        (
            lambda: anchors((0, 8)),
            "pyramid_anchors: image_size is (0, 8); give two integers of at least 1, (height, width)",
        ),
        (
            lambda: anchors(64),
            "pyramid_anchors: image_size is 64; give two integers of at least 1, (height, width)",
        ),
    ],
    "roi align": [
        (lambda: roi_align(MAP[None]), "roi_align: features has shape [1, 4, 4, 2]; give an array [h, w, c]"),
        (lambda: roi_align(MAP > 0), "roi_align: features is bool; give floats or integers"),
        (lambda: roi_align(boxes=FIVE), "roi_align: boxes has shape [3, 5]; give an array [r, 4]"),
        (
            lambda: roi_align(boxes=COARSE),
            "roi_align: boxes is bfloat16, too coarse for pixels; give boxes.astype(jnp.float32)",
        ),
        (lambda: roi_align(output_size=0), "roi_align: output_size is 0; give an integer of at least 1"),
        (lambda: roi_align(spatial_scale=16), "roi_align: spatial_scale is 16; give cells per pixel, 1 / stride"),
        (lambda: roi_align(sampling_ratio=-2), "roi_align: sampling_ratio is -2; give an integer of at least -1"),
        (lambda: roi_align(aligned="no"), "roi_align: aligned is 'no'; give one of True, False"),
        (lambda: roi_align(reduce="avg"), "roi_align: reduce is 'avg'; give one of 'mean', 'max'"),
        (lambda: roi_align(max_samples=0), "roi_align: max_samples is 0; give an integer of at least 1"),
        (
            lambda: m.crop_and_resize(MAP[0], BOXES, output_size=2),
            "crop_and_resize: features has shape [4, 2]; give an array [h, w, c]",
        ),
        (
            lambda: m.crop_and_resize(MAP, FIVE, output_size=2),
            "crop_and_resize: boxes01 has shape [3, 5]; give an array [r, 4]",
        ),
        (
            lambda: m.crop_and_resize(MAP, BOXES, output_size=0),
            "crop_and_resize: output_size is 0; give an integer of at least 1",
        ),
    ],
    "pyramid": [
        (lambda: m.assign_levels(FIVE), "assign_levels: boxes has shape [3, 5]; give an array [..., 4]"),
        (
            lambda: m.assign_levels(BOXES, rounding="nearest"),
            "assign_levels: rounding is 'nearest'; give one of 'floor', 'round'",
        ),
        (
            lambda: m.assign_levels(BOXES, max_level=1),
            "assign_levels: max_level is 1; give an integer of at least 2",
        ),
        (
            lambda: m.assign_levels(BOXES, canonical_size=0),
            "assign_levels: canonical_size is 0; give a number above 0",
        ),
        (
            lambda: pyramid_roi_align((MAP,)),
            "pyramid_roi_align: levels[0] has shape [4, 4, 2]; give an array [1, h, w, c]",
        ),
        (
            lambda: pyramid_roi_align((MAP.transpose(2, 0, 1)[None],)),
            "pyramid_roi_align: levels[0] has shape [1, 2, 4, 4]; give [1, 8 / stride, 8 / stride, channels]",
        ),
        (lambda: pyramid_roi_align(boxes=BOXES), "pyramid_roi_align: boxes has shape [3, 4]; give an array [b, r, 4]"),
        (
            lambda: pyramid_roi_align(roi_levels=np.full((1, 2), 2)),
            "pyramid_roi_align: roi_levels has shape [1, 2]; give an array [1, 3]",
        ),
        (
            lambda: pyramid_roi_align(roi_levels=np.full((1, 3), 2.0)),
            "pyramid_roi_align: roi_levels is float64; give integers",
        ),
        (
            lambda: pyramid_roi_align(roi_levels=np.array([[2, 3, 2]])),
            "pyramid_roi_align: a level in roi_levels is 3; give a number from 2 to 2",
        ),
        (
            lambda: pyramid_roi_align(image_size=8),
            "pyramid_roi_align: image_size is 8; give two integers of at least 1, (height, width)",
        ),
        (
            lambda: pyramid_roi_align(kind="bin"),
            "pyramid_roi_align: kind is 'bin'; give one of 'bins', 'corners'",
        ),
    ],
    "masks": [
        (lambda: paste(np.ones(4)), "paste: mask has shape [4]; give an array [m, m]"),
        (lambda: paste(box=BOXES), "paste: box has shape [3, 4]; give one box [x1, y1, x2, y2]"),
        (
            lambda: paste(box=np.array([0, 0, NAN, 4])),
            "paste: box is [0.0, 0.0, nan, 4.0]; give finite corners (of valid detections only)",
        ),
        (lambda: paste(threshold=50), "paste: threshold is 50; give a number from 0 to 1"),
        (lambda: paste(border="reflect"), "paste: border is 'reflect'; give one of 'edge', 'zero'"),
        (
            lambda: paste(height=0),
            "paste: the image's size is (0, 8); give two integers of at least 1, (height, width)",
        ),
    ],
    "image": [
        (lambda: m.clahe(GREY.astype(np.float32)), "clahe: image_u8 is float32; give uint8 from 0 to 255"),
        (lambda: m.clahe(COLOUR), "clahe: image_u8 has shape [4, 4, 3]; give an array [h, w]"),
        (lambda: m.clahe(GREY[:0]), "clahe: image_u8 has shape [0, 4]; give an image with pixels"),
        (
            lambda: m.clahe(GREY, tiles=(0, 8)),
            "clahe: tiles is (0, 8); give two integers of at least 1, (rows, columns)",
        ),
        (lambda: m.clahe(GREY, tiles=8), "clahe: tiles is 8; give two integers of at least 1, (rows, columns)"),
        (lambda: m.clahe(GREY, clip_limit=NAN), "clahe: clip_limit is nan; give a number, 0 for no clipping"),
        (lambda: m.clahe_rgb(GREY), "clahe_rgb: image_u8 has shape [4, 4]; give an array [h, w, 3]"),
        (lambda: m.clahe_rgb(COLOUR / 255), "clahe_rgb: image_u8 is float64; give uint8 from 0 to 255"),
        (lambda: m.equalize(COLOUR), "equalize: image_u8 has shape [4, 4, 3]; give an array [h, w]"),
        (lambda: rgb_to_lab(GREY), "rgb_to_lab: image_u8 has shape [4, 4]; give an array [..., 3]"),
        (lambda: lab_to_rgb(COLOUR / 255), "lab_to_rgb: lab_u8 is float32; give uint8 from 0 to 255"),
    ],
    "letterbox": [
        (
            lambda: m.letterbox(np.zeros(5, np.uint8), 8),
            "letterbox: image has shape [5]; give one image [h, w, channels] or [h, w]",
        ),
        (
            lambda: m.letterbox(COLOUR[:0], 8),
            "letterbox: the image's size is (0, 4); give two integers of at least 1, (height, width)",
        ),
        (
            lambda: m.letterbox(COLOUR, 0),
            "letterbox: size is (0, 0); give two integers of at least 1, (height, width)",
        ),
        (
            lambda: m.letterbox(COLOUR, 8.5),
            "letterbox: size is 8.5; give two integers of at least 1, (height, width)",
        ),
        (
            lambda: m.letterbox(COLOUR, 8, fill=np.zeros(2)),
            "letterbox: fill is [0. 0.]; give one number, or one for each channel",
        ),
        (
            lambda: m.letterbox(COLOUR, 8, resize=lambda image, new: image),
            "letterbox: resize returned (4, 4) (height, width); return (8, 8)",
        ),
        (
            lambda: m.letterbox(COLOUR, 8)[1].to_letterbox(FIVE),
            "to_letterbox: boxes has shape [3, 5]; give an array [..., 4]",
        ),
        (
            lambda: m.letterbox(COLOUR, 8)[1].to_original(FIVE),
            "to_original: boxes has shape [3, 5]; give an array [..., 4]",
        ),
    ],
    "network": [
        (
            lambda: m.MaskRCNN("tiny", rngs=nnx.Rngs(0)),
            "MaskRCNN: config is 'tiny'; give a MaskRCNNConfig, such as MaskRCNNConfig.tiny()",
        ),
        (
            lambda: m.MaskRCNN(m.MaskRCNNConfig(anchors=AnchorConfig(strides=(8, 16, 32, 64, 128))), rngs=nnx.Rngs(0)),
            "MaskRCNN: anchors.strides is (8, 16, 32, 64, 128); the pyramid's are (4, 8, 16, 32, 64)",
        ),
        (lambda: as_batch(COLOUR), "images has shape [4, 4, 3]; give RGB images as [b, height, width, 3]"),
        (lambda: as_batch(BATCH[..., :1]), "images has shape [1, 64, 64, 1]; give RGB images as [b, height, width, 3]"),
        (
            lambda: as_batch(np.zeros((1, 96, 96, 3))),
            "images are 96 x 96 pixels; height and width must be multiples of 64: see letterbox",
        ),
        (
            lambda: as_batch(np.zeros((1, 100, 130, 3))),
            "images are 100 x 130 pixels; height and width must be multiples of 64: see letterbox",
        ),
        (lambda: as_batch(BATCH + 0.75), "images have values up to 0.75; give 0 to 255, not 0 to 1"),
        (lambda: as_batch(BATCH, BOXES[:2]), "detect: images has 1 rows but windows has 2; give as many of both"),
        (lambda: as_batch(BATCH, FIVE[:1]), "windows has shape [1, 5]; give an array [b, 4]"),
        (lambda: make_norm("batch", 4, group_size=2), "make_norm: kind is 'batch'; give one of 'affine', 'group'"),
        (
            lambda: make_norm("group", 4, group_size=3),
            "GroupNorm: group_size is 3; give a divisor of the 4 channels",
        ),
        (
            lambda: Conv(3, 2, 1, rngs=nnx.Rngs(0))(np.zeros((1, 3, 4, 4))),
            "Conv: features has shape [1, 3, 4, 4]; give an array [b, h, w, 3]",
        ),
        (
            lambda: make_norm("affine", 8, group_size=1)(BATCH[..., :1]),
            "Affine: features has shape [1, 64, 64, 1]; give an array [b, h, w, 8]",
        ),
        (
            lambda: make_norm("group", 8, group_size=4)(BATCH),
            "GroupNorm: features has shape [1, 64, 64, 3]; give an array [b, h, w, 8]",
        ),
        (
            lambda: resnet(stem="conv3"),
            "BackboneConfig: stem is 'conv3'; give one of 'conv7', 'space_to_depth'",
        ),
        (
            lambda: m.config.BackboneConfig.resnet(152),
            "BackboneConfig: depth is 152; give one of 18, 34, 50, 101",
        ),
        (lambda: resnet()(BATCH[..., 0]), "ResNet: images has shape [1, 64, 64]; give an array [b, h, w, 3]"),
        (
            lambda: resnet()(BATCH[:, :48]),
            "ResNet: images are 48 x 64 pixels; height and width must be multiples of 32",
        ),
        (
            lambda: FPN((3, 3), 2, rngs=nnx.Rngs(0))((BATCH, BATCH[:, ::3, ::2])),
            "FPN: C3 has 22 x 32 cells, C2 64 x 64; give twice as many of C2",
        ),
        (
            lambda: BoxHead(3, m.config.BoxHeadConfig(7, 4), num_classes=2, rngs=nnx.Rngs(0))(BATCH),
            "BoxHead: pooled has shape [1, 64, 64, 3]; give an array [r, 7, 7, 3]",
        ),
        (lambda: Compute(kernels="cuda"), "Compute: kernels is 'cuda'; give one of 'xla', 'cpu', 'gpu'"),
        (lambda: Compute("float16"), "Compute: dtype is 'float16'; give one of 'float32', 'bfloat16', 'float64'"),
        (
            lambda: Compute("float64"),
            "Compute: dtype is 'float64'; first call jax.config.update('jax_enable_x64', True)",
        ),
    ],
    "config": [
        (
            lambda: from_dict({"rpn": {"channel": 3, "a": 1}}),
            "unknown config keys rpn.a, rpn.channel; known: channels, coding, targets, loss, proposals",
        ),
        (
            lambda: from_dict({"roi": {"pooling": {"reduce": "avg"}}}),
            "config key roi.pooling.reduce: 'avg' is none of 'mean', 'max'",
        ),
        (
            lambda: from_dict({"roi": {"pooling": "bins"}}),
            "config key roi.pooling: 'bins' is not of type Sampling",
        ),
        (
            lambda: from_dict({"rpn": {"proposals": {"nms_iou": "high"}}}),
            "config key rpn.proposals.nms_iou: 'high' is not of type float",
        ),
        (lambda: from_dict({"fpn_channels": 2.5}), "config key fpn_channels: 2.5 is not of type int"),
    ],
    "losses": [
        (lambda: smooth_l1(SCORES, -1.0), "smooth_l1: beta is -1.0; give a number of at least 0"),
        (
            lambda: masked_mean(SCORES[:, None], SCORES > 0),
            "masked_mean: values has shape [3, 1] but valid [3]; give one flag for each value",
        ),
    ],
}


@pytest.mark.parametrize("part", SLIPS)
def test_one_sentence_for_every_slip(part):
    for call, sentence in SLIPS[part]:
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: checks.whole("f: n", 2.5, least=1), TypeError, "f: n is 2.5; give an integer of at least 1, static"),
        (lambda: checks.whole("f: n", True, least=1), TypeError, "f: n is True; give an integer of at least 1, static"),
        (lambda: checks.whole("f: n", 0, least=1), ValueError, "f: n is 0; give an integer of at least 1"),
        (lambda: checks.pair("f: s", (1, 2.5)), TypeError, "f: s is (1, 2.5); give two integers of at least 1"),
        (lambda: checks.pair("f: s", (1, 0)), ValueError, "f: s is (1, 0); give two integers of at least 1"),
        (lambda: checks.in_range("f: x", "1", 0), TypeError, "f: x is '1'; give a number"),
        (lambda: checks.in_range("f: x", SCORES, 0), TypeError, "f: x is array"),
        (lambda: checks.in_range("f: x", 0, 0, above=True), ValueError, "f: x is 0; give a number above 0"),
        (lambda: checks.in_range("f: x", 9, 0, 1, remedy="invert it"), ValueError, "f: x is 9; invert it"),
        (lambda: checks.shape("f: a", [1], "n"), TypeError, "f: a is a list; give a NumPy or JAX array"),
        (lambda: checks.shape("f: a", SCORES, "n 4"), ValueError, "f: a has shape [3]; give an array [n, 4]"),
        (lambda: checks.shape("f: a", SCORES, "*n 4"), ValueError, "f: a has shape [3]; give an array [..., 4]"),
        (lambda: checks.kind("f: a", SCORES, np.bool_, "n"), TypeError, "f: a is float32; give booleans"),
        (lambda: checks.as_floats("f: a", SCORES > 0, "n"), TypeError, "f: a is bool; give floats or integers"),
        (lambda: checks.as_boxes("f: a", COARSE), TypeError, "f: a is bfloat16, too coarse for pixels; give boxes"),
    ],
)
def test_type_errors_and_value_errors(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(text)


def test_traced_numbers_pass_and_cost_nothing():
    def checked(number, boxes):
        checks.in_range("f: number", number, 0, 1)
        checks.in_range("f: other", 0.5, 0, number)
        return checks.as_boxes("f: boxes", boxes)

    assert not jax.make_jaxpr(checked)(50.0, jnp.zeros((2, 4))).eqns


@pytest.mark.parametrize("array", [np.zeros((2, 4), int), jnp.zeros((2, 4), jnp.int32), np.zeros((2, 4), np.uint8)])
def test_integers_become_floats_of_the_same_library(array):
    boxes = checks.as_boxes("f: boxes", array)
    assert boxes.dtype == np.float32
    assert isinstance(boxes, type(array))


def test_what_needs_no_change_is_not_copied():
    for array in (np.zeros((2, 4)), jnp.zeros((2, 4)), np.zeros((0, 4), np.float32)):
        assert checks.as_boxes("f: boxes", array) is array
