"""The bundles of arrays passed between the stages, and the glossary of axes and terms.

Axes
----
b images · a anchors of all levels · g ground-truth slots · p proposals · r sampled RoIs · d detections ·
k classes, background first · h w c rows, columns, channels · m side of a square mask · o side of a pooled grid.

Terms
-----
* box: `[x1, y1, x2, y2]` in continuous pixels of the letterboxed image. Pixel i covers `[i, i + 1)`, so a box over
  the pixels 2..4 is `[2, 5]` wide 3, and the centre of pixel 0 lies at 0.5.
* anchor: a box that does not depend on the image. Proposal: an anchor moved by the RPN. RoI: a proposal (or a
  jittered ground-truth box) sampled for training. Detection: a RoI moved by the box head.
* delta: the four numbers that move one box onto another (`boxes/coding.py`).
* logit: a score before sigmoid or softmax; probability: after. Objectness: foreground against background.
* mask: the pixels of an instance; *valid* says which slots are filled, and *window* is the part of a letterboxed
  image that is not padding. (Other code calls all three a mask.)
* crowd: a region of objects that were not annotated one by one; neither ground truth nor background.
* level l: P2..P6 of the feature pyramid, with 1/2^l of the image's resolution.

Fixed shapes
------------
XLA compiles one program per shape, so every bundle has a fixed number of slots, and `valid` says which are filled.
The values in padded slots are unspecified (often zeros) and never change a valid output; tests check this contract.
Boxes in padded slots are finite, so that gradients through a masked branch stay finite too.

All are `NamedTuple`s: pytrees without registration, which work with `vmap`, `grad` and `eval_shape` under the jaxtyping
import hook (shape-annotated pytree dataclasses do not). Functions of one image take them without the batch dimension.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


class GroundTruth(NamedTuple):
    """Annotated objects of a batch, in g slots. `masks` are relative to their boxes: the [m, m] cells divide the box
    evenly, 1 inside the object, 0 outside; uint8 or float. They take far less memory than full-frame masks.
    """

    boxes: Float[Array, "b g 4"]
    classes: Int[Array, "b g"]
    masks: Num[Array, "b g m m"]
    valid: Bool[Array, "b g"]
    crowd: Bool[Array, "b g"]

    def with_a_slot(self) -> "GroundTruth":
        """Of one image: the same, or, without any slot, one that is not filled, so that there is something to index."""
        if self.boxes.shape[0]:
            return self
        return GroundTruth(*(jnp.zeros((1, *array.shape[1:]), array.dtype) for array in self))


class Pyramid(NamedTuple):
    """Feature maps P2..P6 at strides 4, 8, 16, 32, 64 (FPN section 3)."""

    p2: Float[Array, "b h2 w2 c"]
    p3: Float[Array, "b h3 w3 c"]
    p4: Float[Array, "b h4 w4 c"]
    p5: Float[Array, "b h5 w5 c"]
    p6: Float[Array, "b h6 w6 c"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the images that the pyramid was computed from."""
        return 4 * self.p2.shape[1], 4 * self.p2.shape[2]


class Proposals(NamedTuple):
    """The RPN's boxes, best first. `scores` are logits or probabilities, whichever the config ranks by."""

    boxes: Float[Array, "b p 4"]
    scores: Float[Array, "b p"]
    valid: Bool[Array, "b p"]


class Detections(NamedTuple):
    """Detected objects, best first. `masks` are probabilities in [m, m] cells over the box."""

    boxes: Float[Array, "b d 4"]
    classes: Int[Array, "b d"]
    scores: Float[Array, "b d"]
    masks: Float[Array, "b d m m"]
    valid: Bool[Array, "b d"]


class Losses(NamedTuple):
    """Scalars; `total` is the weighted sum that is minimised (Mask R-CNN section 3: L_cls + L_box + L_mask, plus the
    RPN's two terms).
    """

    rpn_class: Float[Array, ""]
    rpn_box: Float[Array, ""]
    roi_class: Float[Array, ""]
    roi_box: Float[Array, ""]
    roi_mask: Float[Array, ""]
    total: Float[Array, ""]


class Stages(NamedTuple):
    """Every intermediate result of one forward pass. Under jit, results that are not returned are not computed."""

    c1: Float[Array, "b h1 w1 c1"]
    c2: Float[Array, "b h2 w2 c2"]
    c3: Float[Array, "b h3 w3 c3"]
    c4: Float[Array, "b h4 w4 c4"]
    c5: Float[Array, "b h5 w5 c5"]
    p2: Float[Array, "b h2 w2 c"]
    p3: Float[Array, "b h3 w3 c"]
    p4: Float[Array, "b h4 w4 c"]
    p5: Float[Array, "b h5 w5 c"]
    p6: Float[Array, "b h6 w6 c"]
    objectness: Float[Array, "b a"]
    rpn_deltas: Float[Array, "b a 4"]
    anchors: Float[Array, "a 4"]
    proposals: Proposals
    class_logits: Float[Array, "b p k"]
    box_deltas: Float[Array, "b p k 4"]
    detections: Detections
