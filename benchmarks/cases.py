"""The operations that `ops.py` times: ours in several forms, and the peers that compute the same."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import Calls, in_loop, in_program
from maskrcnn_jax.boxes.geometry import iou
from maskrcnn_jax.boxes.matching import match
from maskrcnn_jax.boxes.nms import nms
from maskrcnn_jax.config import Sampling
from maskrcnn_jax.image.clahe import clahe
from maskrcnn_jax.image.letterbox import letterbox
from maskrcnn_jax.kernels.convolution import conv2d, plain_conv2d
from maskrcnn_jax.roi.align import roi_align
from maskrcnn_jax.roi.bilinear import Maps
from maskrcnn_jax.roi.grid import sample_grid
from maskrcnn_jax.roi.masks import paste
from maskrcnn_jax.roi.separable import pool_separably
from maskrcnn_jax.rpn.anchors import pyramid_anchors

torch = torchvision = None
if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    import torch
    import torchvision
TORCH = {"torch": torch.__version__, "torchvision": torchvision.__version__} if torch and torchvision else {}
MAP, CHANNELS, ROIS, BINS = 128, 256, 512, 7


class Op(NamedTuple):
    """One line of the table: ways to compute the same, and the bytes and FLOPs that no way can avoid."""

    name: str
    ways: Calls
    moved: float = 0.0
    flops: float = 0.0


def boxes_of(n: int, seed: int = 0) -> np.ndarray:
    """Boxes with sides of 7 to 90 pixels in an image of 512."""
    rng = np.random.default_rng(seed)
    centres, sides = rng.uniform(0, 512, (n, 2)), np.exp(rng.uniform(2, 4.5, (n, 2)))
    return np.concatenate([(centres - sides / 2).clip(0, 511), (centres + sides / 2).clip(1, 512)], 1).astype("f")


def on_torch(*arrays: np.ndarray) -> list:
    """Tensors on JAX's kind of device."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    return [torch.from_numpy(np.array(a)).to(device) for a in arrays]


def on_its_own(call: Callable[[], Any]) -> Callable[[], Any]:
    """Torch's call, on a GPU many times, and its queue emptied after them."""
    return in_loop(call, (lambda _: torch.cuda.synchronize()) if jax.default_backend() == "gpu" else lambda out: out)


def separably(features: jax.Array, boxes: jax.Array) -> jax.Array:
    """RoI Align as two matrix products."""
    rows, columns = sample_grid(boxes / 4, Maps.same(MAP, MAP, ROIS), bins=BINS, sampling=Sampling())
    return pool_separably((features[None],), jnp.zeros((1, ROIS), jnp.int32), rows, columns)[0]


def roi_align_ops() -> list[Op]:
    """512 boxes, 7x7 bins of four samples, 256 channels, a map of 128x128: forward, and with the map's gradient."""
    rng = np.random.default_rng(0)
    features, boxes = rng.normal(size=(MAP, MAP, CHANNELS)).astype("f"), boxes_of(ROIS)
    pull = rng.normal(size=(ROIS, BINS, BINS, CHANNELS)).astype("f")
    f, b, p = jnp.asarray(features), jnp.asarray(boxes), jnp.asarray(pull)
    forms = {
        "ours": lambda f, b: roi_align(f, b, output_size=BINS, spatial_scale=0.25, aligned=True),
        "ours, separable": separably,
    }
    forward, both = {}, {}
    for name, form in forms.items():
        forward[name] = in_program(form, f, b)
        both[name] = in_program(lambda f, b, p, form=form: jax.vjp(lambda f: form(f, b), f)[1](p)[0], f, b, p)
    if torch:
        tf, tb, tp = on_torch(
            features.transpose(2, 0, 1)[None], np.pad(boxes, ((0, 0), (1, 0))), pull.transpose(0, 3, 1, 2)
        )
        wanting = tf.clone().requires_grad_()

        def there(map_: Any) -> Any:
            return torchvision.ops.roi_align(map_, tb, BINS, 0.25, 2, True)

        def there_and_back() -> Any:
            wanting.grad = None
            there(wanting).backward(tp)
            return wanting.grad

        forward["torchvision"], both["torchvision"] = on_its_own(lambda: there(tf)), on_its_own(there_and_back)
    moved = float(features.nbytes + pull.nbytes)
    return [Op("RoI Align", forward, moved), Op("RoI Align, with gradient", both, 2 * moved)]


def convolution_ops(maps: int, side: int) -> list[Op]:
    """3x3 with 256 channels, over maps of side x side: forward, and with the gradients of features and kernel.

    The floor is that of Winograd's algorithm, which needs a quarter of the plain sum's products for whole tiles.
    """
    rng = np.random.default_rng(0)
    features, pull = rng.normal(size=(2, maps, side, side, CHANNELS)).astype("f")
    kernel = rng.normal(size=(3, 3, CHANNELS, CHANNELS)).astype("f") / 48
    f, k, p = jnp.asarray(features), jnp.asarray(kernel), jnp.asarray(pull)
    forward, both = {}, {}
    for name, form in {"ours": conv2d, "ours, plain": plain_conv2d}.items():

        def convolve(f: jax.Array, k: jax.Array, form: Callable = form) -> Any:
            return form(f, k, 1, ((1, 1), (1, 1)))

        def gradients(f: jax.Array, k: jax.Array, p: jax.Array, convolve: Callable = convolve) -> Any:
            out, back = jax.vjp(convolve, f, k)
            return out, back(p)

        forward[name] = in_program(convolve, f, k)
        both[name] = in_program(gradients, f, k, p)
    if torch:
        tf, tk, tp = on_torch(features.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), pull.transpose(0, 3, 1, 2))
        tf, tk, tp = (t.contiguous(memory_format=torch.channels_last) for t in (tf, tk, tp))
        wanting = [t.clone().requires_grad_() for t in (tf, tk)]

        def there(*arguments: Any) -> Any:
            return torch.nn.functional.conv2d(*arguments, padding=1)

        forward["torch, channels last"] = on_its_own(lambda: there(tf, tk))
        both["torch, channels last"] = on_its_own(lambda: torch.autograd.grad(there(*wanting), wanting, tp))
    moved, flops = float(features.nbytes + pull.nbytes), 2.0 * features.size * 9 * CHANNELS / 4
    name = f"3x3 convolution, {maps} of {side}x{side}"
    return [Op(name, forward, moved, flops), Op(f"{name}, with gradients", both, 3 * moved, 3 * flops)]


def adding_op(rows: int = 4 * ROIS * BINS * BINS) -> Op:
    """Rows of 256 channels added to those of a map that indices name, as in RoI Align's gradient: atomic additions on a
    GPU, unless equal rows stand side by side.
    """
    rng = np.random.default_rng(0)
    values, places = rng.normal(size=(rows, CHANNELS)).astype("f"), rng.integers(0, MAP * MAP, rows, dtype=np.int32)
    v, p = jnp.asarray(values), jnp.asarray(places)

    def add(v: jax.Array, p: jax.Array, ordered: bool = False) -> jax.Array:
        return jnp.zeros((MAP * MAP, CHANNELS), v.dtype).at[p].add(v, indices_are_sorted=ordered)

    def add_ordered(v: jax.Array, p: jax.Array) -> jax.Array:
        order = jnp.argsort(p)
        return add(v[order], p[order], ordered=True)

    ways: dict[str, Callable[[], Any]] = {
        "ours": in_program(add, v, p),
        "ours, ordered": in_program(add_ordered, v, p),
        "ours, bfloat16": in_program(add, v.astype(jnp.bfloat16), p),
    }
    if torch:
        tv, tp = on_torch(values, places)
        ways["torch"] = on_its_own(lambda: tv.new_zeros((MAP * MAP, CHANNELS)).index_add_(0, tp, tv))
    return Op(f"scatter-add of {rows:,} rows", ways, values.nbytes + 4.0 * MAP * MAP * CHANNELS)


def nms_op(n: int, images: int = 1) -> Op:
    """Of n boxes an image at an IoU of 0.7."""
    boxes = np.stack([boxes_of(n, seed) for seed in range(images)])
    scores = np.random.default_rng(1).uniform(size=(images, n)).astype("f")
    run = jax.vmap(lambda b, s: nms(b, s, iou_threshold=0.7, max_outputs=n))
    ways: dict[str, Callable[[], Any]] = {"ours": in_program(run, jnp.asarray(boxes), jnp.asarray(scores))}
    if torch:
        tb, ts = on_torch(boxes, scores)
        ways["torchvision"] = on_its_own(
            lambda: [torchvision.ops.nms(one, own, 0.7) for one, own in zip(tb, ts, strict=True)]
        )
    return Op(f"NMS of {n}" + (f", {images} images" if images > 1 else ""), ways, float(boxes.nbytes + scores.nbytes))


def matching_op(objects: int = 20) -> Op:
    """IoU of all anchors of a 512x512 image with 20 objects, and their labels."""
    anchors = pyramid_anchors(
        (512, 512), strides=(4, 8, 16, 32, 64), sizes=(32, 64, 128, 256, 512), ratios=(0.5, 1, 2)
    ).astype("f")
    truth = boxes_of(objects)
    ways: dict[str, Callable[[], Any]] = {
        "ours": in_program(
            lambda t, a: match(iou(t, a), positive_iou=0.7, negative_iou=0.3, allow_low_quality=True),
            jnp.asarray(truth),
            jnp.asarray(anchors),
        )
    }
    if torch:
        from torchvision.models.detection._utils import Matcher

        tt, ta = on_torch(truth, anchors)
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        ways["torchvision"] = on_its_own(lambda: matcher(torchvision.ops.box_iou(tt, ta)))
    return Op(f"matching of {len(anchors):,} anchors", ways, 2.0 * anchors.nbytes)


def clahe_op(images: int = 1) -> Op:
    """Of a grey image 1280 wide and 960 high, limit 2, 8x8 tiles."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 960, 1280), dtype=np.uint8)
    run = jax.vmap(lambda one: clahe(one, clip_limit=2.0, tiles=(8, 8)))
    theirs = cv2.createCLAHE(2.0, (8, 8))
    return Op(
        "CLAHE, 1280x960" + (f", {images} images" if images > 1 else ""),
        {"ours": in_program(run, jnp.asarray(pixels)), "OpenCV": lambda: [theirs.apply(one) for one in pixels]},
        2.0 * pixels.nbytes,
    )


def letterbox_op() -> Op:
    """A colour image 1280x960 to 512x512, on the host."""
    pixels = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), dtype=np.uint8)

    def theirs() -> np.ndarray:
        resized = cv2.resize(pixels, (512, 384), interpolation=cv2.INTER_AREA)
        return cv2.copyMakeBorder(resized, 64, 64, 0, 0, cv2.BORDER_CONSTANT)

    return Op(
        "letterbox, 1280x960 to 512", {"ours": lambda: letterbox(pixels, 512)[0], "OpenCV": theirs}, pixels.nbytes
    )


def pasting_op(n: int = 100) -> Op:
    """100 masks of 28x28 into a 512x512 image, on the host."""
    rng = np.random.default_rng(0)
    masks, boxes = rng.uniform(size=(n, 28, 28)).astype("f"), boxes_of(n)

    def own() -> list[np.ndarray]:
        return [paste(m, b, height=512, width=512) for m, b in zip(masks, boxes, strict=True)]

    ways: dict[str, Callable[[], Any]] = {"ours": own}
    if torch:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        tm, tb = torch.from_numpy(masks[:, None]), torch.from_numpy(boxes)
        ways["torchvision"] = lambda: paste_masks_in_image(tm, tb, (512, 512)) > 0.5
    return Op(f"pasting of {n} masks", ways, n * 512.0 * 512.0)
