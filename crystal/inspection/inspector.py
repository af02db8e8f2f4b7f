"""One image followed through the network, stage by stage, with all its numbers (`crystal inspect`).

Every number comes from the components of `maskrcnn_jax`, called one after the other as `MaskRCNN.stages` calls them;
only the softmax that turns logits into probabilities is computed again. Each stage is compiled and timed separately; as
one program the network is somewhat faster. Times are those of a second run, without compilation.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from crystal.data.images import apply_clahe, prepare, read_image
from crystal.prediction.predictor import to_original
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.image.letterbox import Letterbox
from maskrcnn_jax.image.normalise import normalise
from maskrcnn_jax.image.tiles import View
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.roi.bilinear import AxisSamples
from maskrcnn_jax.roi.detections import Refined
from maskrcnn_jax.roi.grid import pyramid_grid
from maskrcnn_jax.rpn.proposals import Ranked
from maskrcnn_jax.structures import Detections, Proposals, Pyramid

SHOWN_ROIS = 12  # RoIs that are shown one by one


class Timed(NamedTuple):
    """One stage: seconds of a run and of compiling; `compiling` is None on the host, where nothing is compiled."""

    name: str
    result: str
    seconds: float
    compiling: float | None


class Inspection(NamedTuple):
    """One image's way through the network, as NumPy arrays without the batch dimension; boxes in letterboxed pixels.

    Attributes:
        image: the file's pixels.
        equalised: the same after CLAHE; None for a network trained without it.
        pixels: the letterboxed image, which the network sees.
        place: where the image lies in it.
        maps: C1..C5, then P2..P6, by name.
        objectness: logits, one an anchor.
        anchors: boxes.
        ranked: the candidates among which NMS selected the proposals.
        proposals: after NMS, best first.
        levels: which level of the pyramid each proposal is pooled from.
        probabilities: of each proposal, one a class.
        refined: the candidates among which NMS selected the detections.
        detections: after NMS, best first.
        chosen: indices of proposals shown in detail: those of the best detections, then the most probable objects.
        pooled: their pooled features.
        grid: (rows, columns) of the points where those were sampled, in cells of each proposal's level.
        times: one entry a stage.
    """

    config: MaskRCNNConfig
    image: UInt8[np.ndarray, "h w 3"]
    equalised: UInt8[np.ndarray, "h w 3"] | None
    pixels: UInt8[np.ndarray, "h w 3"]
    place: Letterbox
    maps: dict[str, Float[np.ndarray, "h w c"]]
    objectness: Float[np.ndarray, " a"]
    anchors: Float[np.ndarray, "a 4"]
    ranked: Ranked
    proposals: Proposals
    levels: Int[np.ndarray, " p"]
    probabilities: Float[np.ndarray, "p k"]
    refined: Refined
    detections: Detections
    chosen: Int[np.ndarray, " n"]
    pooled: Float[np.ndarray, "n o o c"]
    grid: tuple[AxisSamples, AxisSamples]
    times: list[Timed]


def _shapes(result: Any) -> str:
    """Shapes without the batch dimension, of the first five arrays."""
    arrays = [leaf.shape[1:] if leaf.shape[:1] == (1,) else leaf.shape for leaf in jax.tree.leaves(result)]
    shown = ["\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}".join(map(str, shape)) for shape in arrays if shape]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")


class Stages:
    """Runs parts of a model, each compiled and timed separately."""

    def __init__(self, model: MaskRCNN):
        self._graph, self._state = nnx.split(model)
        self.times: list[Timed] = []

    def host(self, name: str, function: Callable[[], Any], result: Callable[[Any], str]) -> Any:
        start = time.perf_counter()
        value = function()
        self.times.append(Timed(name, result(value), time.perf_counter() - start, None))
        return value

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any, shown: Any = None) -> Any:
        """`function(model, *arguments)`; `shown` selects the arrays whose shapes the table lists."""

        def part(state: nnx.State, *given: Any) -> Any:
            return function(nnx.merge(self._graph, state), *given)

        start = time.perf_counter()
        program = jax.jit(part).lower(self._state, *arguments).compile()
        compiling = time.perf_counter() - start
        jax.block_until_ready(program(self._state, *arguments))
        start = time.perf_counter()
        result = jax.block_until_ready(program(self._state, *arguments))
        seconds = time.perf_counter() - start
        self.times.append(Timed(name, _shapes(shown(result) if shown else result), seconds, compiling))
        return result


class ForwardPass(NamedTuple):
    """The outputs of a forward pass that the losses need, with the batch dimension, and the timer that made them."""

    run: Stages
    pyramid: Pyramid
    objectness: jax.Array
    deltas: jax.Array
    windows: jax.Array


def first_image(tree: Any) -> Any:
    """The arrays of the only image of a batch, as NumPy."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)


def _choose(probabilities: np.ndarray, proposals: Proposals, refined: Refined) -> Int[np.ndarray, " n"]:
    """The RoIs of the best detections, then the most probable objects; SHOWN_ROIS at most."""
    behind = np.asarray(refined.roi)[np.asarray(refined.selected)[np.asarray(refined.filled)]]
    valid = np.flatnonzero(np.asarray(proposals.valid))
    probable = valid[np.argsort(-probabilities[valid, 1:].max(1), kind="stable")]
    return np.array(list(dict.fromkeys([*behind.tolist(), *probable.tolist()]))[:SHOWN_ROIS], int)


class Inspector:
    """Follows images through one network."""

    def __init__(self, model: MaskRCNN):
        self.model = model

    def follow(self, path: Path) -> tuple[Inspection, ForwardPass]:
        """One image at inference, and the outputs from which `targets.py` computes the losses. Raises ImageError."""
        config, run = self.model.config, Stages(self.model)
        size, bins = config.image.size, config.roi.box_head.size
        image = run.host("read", lambda: read_image(path), lambda i: _shapes([i]))
        height, width = image.shape[:2]
        equalised = None
        if config.image.clahe:
            equalised = run.host("CLAHE", lambda: apply_clahe(image), lambda i: _shapes([i]))
        source = image if equalised is None else equalised
        pixels, place = run.host(
            "letterbox", lambda: prepare(source, size=size, clahe=False), lambda r: _shapes([r[0]])
        )
        images, windows = jnp.asarray(pixels)[None], jnp.asarray(place.window, jnp.float32)[None]

        maps = run(
            "ResNet: C1 to C5", lambda m, i, w: m.backbone(normalise(i, w, config=config.image)), images, windows
        )
        pyramid = run("FPN: P2 to P6", lambda m, maps: m.fpn(maps[1:]), maps)
        objectness, deltas = run("RPN head: objectness, deltas", lambda m, p: m.rpn(p), pyramid)

        def propose(model: MaskRCNN, *outputs: Any) -> tuple[Ranked, Proposals]:
            ranked = model.rank(*outputs, size=size)
            return ranked, jax.vmap(Ranked.proposals)(ranked)

        ranked, proposals = run(
            "proposals: rank, decode, NMS", propose, objectness, deltas, windows, shown=lambda r: r[1].boxes
        )
        pooled = run(
            f"RoI Align: {bins} x {bins} bins",
            lambda m, p, boxes: m.pool(p, boxes, output_size=bins),
            pyramid,
            proposals.boxes,
        )
        logits, box_deltas = run("box head: class logits, deltas", lambda m, rois: m.box_head(rois), pooled[0])

        def refine(model: MaskRCNN, *outputs: Any) -> tuple[Refined, Detections]:
            refined = model.refine(*outputs)
            return refined, jax.vmap(Refined.detections)(refined)

        refined, detections = run(
            "detections: decode, NMS by class",
            refine,
            logits[None],
            box_deltas[None],
            proposals,
            windows,
            shown=lambda r: r[1].boxes,
        )
        masks = run("masks: RoI Align, mask head", lambda m, p, d: m.detection_masks(p, d), pyramid, detections)
        detections = first_image(detections._replace(masks=masks))
        run.host(
            "paste into the image",
            lambda: to_original(detections, place, view=View(1, 0, 0, *place.original), height=height, width=width),
            lambda found: f"{len(found.rles)} masks",
        )

        probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
        chosen = _choose(probabilities, first_image(proposals), first_image(refined))
        levels = self.model.levels(proposals.boxes, size=size)
        _, *grid = pyramid_grid(
            pyramid[:4],
            proposals.boxes[:, chosen],
            levels[:, chosen] - 2,
            image_size=size,
            bins=bins,
            sampling=config.roi.pooling,
            far_edge=config.far_edge,
        )
        names = [f"C{i}" for i in range(1, 6)] + [f"P{i}" for i in range(2, 7)]
        inspection = Inspection(
            config=config,
            image=image,
            equalised=equalised,
            pixels=pixels,
            place=place,
            maps={name: np.asarray(level[0], np.float32) for name, level in zip(names, (*maps, *pyramid), strict=True)},
            objectness=np.asarray(objectness[0]),
            anchors=self.model.anchors(*size),
            ranked=first_image(ranked),
            proposals=first_image(proposals),
            levels=np.asarray(levels[0]),
            probabilities=probabilities,
            refined=first_image(refined),
            detections=detections,
            chosen=chosen,
            pooled=np.asarray(pooled[0][chosen], np.float32),
            grid=jax.tree.map(np.asarray, tuple(grid)),
            times=run.times,
        )
        return inspection, ForwardPass(run, pyramid, objectness, deltas, windows)
