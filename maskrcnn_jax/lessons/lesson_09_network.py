"""Lesson 09: all parts in order, from the image to the masks of the detections."""

import marimo

app = marimo.App(app_title="09 The whole network on one image", width="medium")

with app.setup:
    from functools import lru_cache, partial

    import jax
    import jax.numpy as jnp
    import marimo as mo
    import numpy as np

    from crystal.prediction.overlays import draw_outlines
    from maskrcnn_jax.boxes.geometry import iou
    from maskrcnn_jax.config import BoxCoding, DetectionConfig
    from maskrcnn_jax.image.letterbox import letterbox
    from maskrcnn_jax.lessons.diagrams import network
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, diagram, start
    from maskrcnn_jax.lessons.network import compiled, every_stage, pretrained
    from maskrcnn_jax.lessons.show import (
        BLUE,
        GREY,
        ORANGE,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
        table,
    )
    from maskrcnn_jax.model import MaskRCNN
    from maskrcnn_jax.roi.detections import select_detections
    from maskrcnn_jax.roi.masks import paste
    from maskrcnn_jax.structures import Proposals

    SIZE = (256, 320)


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 09 The whole network on one image"),
            start(
                5,
                know="lessons 03 to 08",
                pages={
                    "The network": "components/network",
                    "Letterbox": "components/letterbox",
                    "Detections": "components/detections",
                },
                papers={"Crystals 2021": "section 2.2 and figure 1", "Mask R-CNN": "section 3"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** This lesson runs the parts of lessons 03 to 08 in their order (Mask R-CNN, section 3;
        Crystals 2021, figure 1):

        image → CLAHE → letterbox → ResNet → FPN → RPN → NMS → RoI Align → box head → NMS → RoI Align → mask head →
        paste

        The *letterbox* scales an image to the input size of the network, keeps its aspect ratio, and pads the rest. RoI
        Align comes twice: for the proposals, and again for the refined boxes of the detections, from which the masks
        are predicted. *Pasting* scales each mask to its box in the image. The score of a detection is the probability
        of its class $k$,

        $$s = \frac{e^{z_k}}{\sum_j e^{z_j}}$$

        where $z$ are the class logits. Neither objectness nor the mask enters the score. The weights used here come
        with the package. They were trained on drawn shapes and have never seen a drop; lesson 10 trains them on drops.
        CLAHE (lesson 03) is optional, and these weights were trained without it.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            diagram(network(), "The network, from the letterboxed image to the detections"),
            mo.md("These calls make the pictures below:"),
            calls(every_stage, "stages"),
            calls(picture, "paste"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    seed = mo.ui.slider(4, 11, value=8, label="drop", show_value=True)
    score = mo.ui.slider(0.05, 0.95, step=0.05, value=0.5, label="score threshold", show_value=True)
    count = mo.ui.slider(5, 150, step=5, value=40, label="proposals shown", show_value=True)
    mo.vstack([mo.md("## From proposals to crystals"), mo.hstack([seed, score, count], wrap=True, justify="start")])
    return count, score, seed


@app.function(hide_code=True)
@lru_cache(maxsize=8)
def stages_of(seed):
    """All stages of a drop, on the host."""
    return jax.device_get(compiled(every_stage)(scene(seed, light=0.2).image[None]))


@app.function(hide_code=True)
def matched(truth, boxes):
    """For each box, whether it is the first to have an IoU of 0.5 or more with its crystal."""
    if not len(boxes):
        return np.zeros(0, bool)
    padded = np.zeros((100, 4), np.float32)  # a fixed shape, so that another number of boxes compiles nothing
    padded[: len(boxes)] = boxes
    overlap, taken, right = np.asarray(iou(jnp.asarray(padded), jnp.asarray(truth, jnp.float32))), set(), []
    for row in overlap[: len(boxes)]:
        best = int(row.argmax())
        right.append(row[best] >= 0.5 and best not in taken)
        taken |= {best} if right[-1] else set()
    return np.array(right)


@app.function(hide_code=True)
def picture(seed, score, count):
    """The best proposals, the detections above the score threshold, and the scores of all detections."""
    drop, found = scene(seed, light=0.2), stages_of(seed)
    proposals, detections = found.proposals, found.detections
    first, axes = photo(drop.image)
    boxes_over(axes, proposals.boxes[0][:count][proposals.valid[0][:count]], ORANGE, width=0.9, halo=False)

    valid = detections.valid[0]
    boxes, scores, masks = detections.boxes[0][valid], detections.scores[0][valid], detections.masks[0][valid]
    kept = scores >= score
    pasted = [
        paste(mask, box, height=SIZE[0], width=SIZE[1]) for mask, box in zip(masks[kept], boxes[kept], strict=True)
    ]
    pasted = np.array(pasted, bool).reshape(-1, *SIZE)
    second = draw_outlines(drop.image, pasted, scale=2)

    right = matched(drop.boxes, boxes)
    third, axes = canvas()
    place = np.arange(len(scores))
    axes.bar(place[right], scores[right], color=BLUE, label="correct", width=0.8)
    axes.bar(
        place[~right], scores[~right], color=VERMILLION, label="false or duplicate", width=0.8, hatch="///", alpha=0.8
    )
    axes.axhline(score, color=GREY, ls=":")
    axes.set(xlabel="detections, highest score first", ylabel="score", ylim=(0, 1.25), xlim=(-1, 40))
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    hits = int(right[kept].sum())
    return {
        f"The {count} proposals of highest objectness": first,
        f"{int(kept.sum())} detections with a score of {score:.2f} or more: {hits} of {len(drop.boxes)} crystals "
        f"found": second,
        "Scores of all detections": third,
    }


@app.cell(hide_code=True)
def _(count, score, seed):
    panels(picture(seed.value, score.value, count.value))
    return


@app.function(hide_code=True)
def shapes():
    """Each stage of one forward pass with its shape."""
    found, rows = stages_of(8), []
    meanings = {
        "c1": "stem",
        "c2": "stage 2, stride 4",
        "c5": "stage 5, stride 32",
        "p2": "finest pyramid level",
        "p6": "coarsest pyramid level, for the RPN only",
        "objectness": "one logit per anchor",
        "rpn_deltas": "four deltas per anchor",
        "class_logits": "per proposal and class",
        "box_deltas": "four deltas per proposal and class",
    }
    for name, meaning in meanings.items():
        rows.append([f"`{name}`", "x".join(map(str, getattr(found, name).shape)), meaning])
    rows.append(["`proposals.boxes`", "x".join(map(str, found.proposals.boxes.shape)), "padded to a fixed number"])
    rows.append(
        ["`detections.masks`", "x".join(map(str, found.detections.masks.shape)), "mask probabilities within the box"]
    )
    return table(["stage", "shape", "meaning"], rows)


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f""" `MaskRCNN.stages` returns every intermediate result by name. Under `jit`, results that are not used
                are not computed, so the same function serves prediction and this lesson. Shapes are fixed (lesson 12):
                every image has {stages_of(8).proposals.valid.shape[1]} proposals and
                {stages_of(8).detections.valid.shape[1]} detections, and a mask `valid` says which of them are real.
                """
            ),
            shapes(),
            source(MaskRCNN.stages, select_detections, paste),
            mo.md(
                """
                To follow an image of your own through these stages, write a page of them:

                ```
                crystal inspect IMAGE --weights RUN --truth FILE --out PAGE.html
                ```

                It shows feature maps, objectness, proposals, detections and masks; with `--truth`, a LabelMe or COCO
                file, also which anchors are matched to which crystal, and the losses.
                """
            ),
        ]
    )
    return


@app.function(hide_code=True)
@partial(jax.jit, static_argnames=("nms_iou", "far_edge"))
def selected(logits, deltas, boxes, valid, window, nms_iou, *, far_edge=0):
    """The package's selection of detections, with another NMS threshold."""
    rule = DetectionConfig(one_class=False, score_threshold=0.5, nms_iou=nms_iou, candidates=150)
    proposals, coding = Proposals(boxes, jnp.ones(len(boxes)), valid), pretrained().config.roi.coding
    refined = select_detections(logits, deltas, proposals, window, config=rule, coding=coding, far_edge=far_edge)
    return refined.detections()


@app.function(hide_code=True)
def without_the_last_nms():
    """Detections of one drop with scores of 0.5 or more, with and without NMS, and the precision over eight drops."""
    shown, precision = [], []
    window = jnp.array([0.0, 0.0, SIZE[1], SIZE[0]])
    for nms_iou in (0.4, 1.0):
        right = total = 0
        for seed in range(4, 12):
            s = stages_of(seed)
            found = jax.device_get(
                selected(
                    s.class_logits[0], s.box_deltas[0], s.proposals.boxes[0], s.proposals.valid[0], window, nms_iou
                )
            )
            boxes = found.boxes[found.valid]
            hits = matched(scene(seed, light=0.2).boxes, boxes)
            right, total = right + int(hits.sum()), total + len(hits)
            if seed == 8:
                figure, axes = photo(scene(seed, light=0.2).image)
                boxes_over(axes, boxes, BLUE if nms_iou < 1 else VERMILLION, width=1.2)
                shown.append((figure, len(boxes)))
        precision.append(right / max(total, 1))
    return {
        f"With NMS: {shown[0][1]} detections. Precision over eight drops: {precision[0]:.0%}": shown[0][0],
        f"Without: {shown[1][1]} detections. Precision over eight drops: {precision[1]:.0%}": shown[1][0],
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without the second NMS

                The box head moves several proposals onto the same crystal. Without a second NMS each of them becomes a
                detection, and all but one count as false (lesson 11).
                """
            ),
            panels(without_the_last_nms()),
            mo.md(
                "## Exercises\n\n**1.** `my_letterbox(height, width, size)`: the scale and the offsets (scale, left, "
                "top) with which an image is fitted into the middle of a square of `size` pixels. The scaled sides are "
                "rounded to whole pixels, the offsets are rounded down."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_letterbox(height, width, size):
        """(scale, left, top)."""
        return None  # your turn

    return (my_letterbox,)


@app.function(hide_code=True)
def check_letterbox(attempt):
    """Exercise 1 against `letterbox`: where it puts a box, and the window."""
    cases = []
    for height, width, size in ((100, 200, 64), (200, 100, 64), (64, 64, 64), (90, 120, 256)):
        box = letterbox(np.zeros((height, width, 3), np.uint8), size)[1]
        left, top = np.asarray(box.window)[:2]
        cases.append(((height, width, size), (min(size / height, size / width), float(left), float(top))))
    return grade(
        attempt,
        cases,
        hint="The scale is the smaller of size / height and size / width; an offset is half of the rest.",
    )


@app.function(hide_code=True)
def solve_letterbox(height, width, size):
    """(scale, left, top)."""
    scale = min(size / height, size / width)
    return scale, (size - round(width * scale)) // 2, (size - round(height * scale)) // 2


@app.cell(hide_code=True)
def _(my_letterbox):
    mo.vstack(
        [
            show(check_letterbox(my_letterbox)),
            solution(
                solve_letterbox,
                "With the smaller of the two scales both sides fit; with the larger one the longer side would "
                "be cut off. One scale for both sides keeps the shapes of crystals. To bring a box back to "
                "the image, subtract the offsets, then divide by the scale.",
            ),
            mo.md(
                "**2.** `my_candidates(probabilities, lowest)`: the pairs (proposal, class) whose probability is "
                "`lowest` or more, highest first. `probabilities[p][k]` is that of proposal p and class k; class 0 is "
                "background and never a detection."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_candidates(probabilities, lowest):
        """A list of pairs, highest probability first."""
        return None  # your turn

    return (my_candidates,)


@app.function(hide_code=True)
def check_candidates(attempt):
    """Exercise 2 against `select_detections` with no suppression; each proposal lies at a place of its own."""
    cases, select = [], jax.jit(select_detections, static_argnames=("config", "coding"))
    for rows, least in (
        ([[0.1, 0.9, 0.0001], [0.8, 0.2, 0.0001]], 0.5),
        ([[0.2, 0.5, 0.3], [0.05, 0.35, 0.6]], 0.25),
        ([[0.98, 0.01, 0.01], [0.3, 0.1, 0.6]], 0.5),
    ):
        p, k = np.shape(rows)
        corners = 20.0 * np.arange(p)[:, None] + np.array([0, 0, 10, 10])
        found = select(
            jnp.log(jnp.array(rows)),
            jnp.zeros((p, k, 4)),
            Proposals(jnp.asarray(corners, jnp.float32), jnp.ones(p), jnp.ones(p, bool)),
            jnp.array([0.0, 0, 500, 500]),
            config=DetectionConfig(one_class=False, score_threshold=least, nms_iou=0.5, max_detections=p * k),
            coding=BoxCoding(),
        ).detections()
        n = int(found.valid.sum())
        pairs = [(int(found.boxes[i, 0]) // 20, int(found.classes[i])) for i in range(n)]
        cases.append(((rows, least), pairs))
    return grade(attempt, cases, hint="One proposal may give two candidates, for two classes; sort all by probability.")


@app.function(hide_code=True)
def solve_candidates(probabilities, lowest):
    """A list of pairs, highest probability first."""
    pairs = [(p, k) for p, row in enumerate(probabilities) for k in range(1, len(row)) if row[k] >= lowest]
    return sorted(pairs, key=lambda pair: -probabilities[pair[0]][pair[1]])


@app.cell(hide_code=True)
def _(my_candidates):
    mo.vstack(
        [
            show(check_candidates(my_candidates)),
            solution(
                solve_candidates,
                "Every class but background is a candidate of its own, with its own box, as the box head "
                "predicts four deltas *per class*. So one proposal can become two detections; NMS, done for "
                "each class by itself, does not remove one for the other. Matterport takes only the class of "
                "highest probability of each proposal.",
            ),
            mo.md("**Next:** lesson 10, training on drops."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
