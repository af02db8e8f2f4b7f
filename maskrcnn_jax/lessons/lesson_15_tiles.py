"""Lesson 15: why small crystals are missed in large photographs, and what tiles and merging do about it."""

import marimo

app = marimo.App(app_title="15 Scale and tiles", width="medium")

with app.setup:
    from functools import lru_cache
    from itertools import pairwise

    import cv2
    import jax
    import marimo as mo
    import numpy as np

    from crystal.data.images import prepare
    from crystal.data.outlines import cut, encode_patch
    from crystal.evaluation.metrics import match
    from crystal.prediction.merging import INSIDE_WEIGHT, merge
    from crystal.prediction.predictor import joined, to_original
    from crystal.prediction.zooms import UNTRAINED, trust
    from maskrcnn_jax.image.letterbox import fit
    from maskrcnn_jax.image.tiles import OVERLAP, owns, views
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.network import compiled, every_stage
    from maskrcnn_jax.lessons.show import (
        BLUE,
        ORANGE,
        SKY,
        VERMILLION,
        boxes_over,
        canvas,
        panels,
        photo,
        source,
        table,
    )

    SIZE = (256, 320)  # of the network's input
    HEIGHT, WIDTH = 768, 960  # of the photograph
    SEED, CRYSTALS = 9, 40
    ZOOMS = {"1": (1,), "1, 2": (1, 2), "1, 2, 3": (1, 2, 3)}
    # Zooms, crystals found and false ones, of six real photographs (docs/how_to/small_crystals.md, without CLAHE).
    REAL, IN_ALL = (("1", 14, 9), ("1, 1.7", 20, 15), ("1, 1.7, 3.2", 26, 26), ("1, 1.7, 3.2, 6.2", 72, 68)), 249


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 15 Scale and tiles"),
            start(
                5,
                know="anchors (lesson 02), the letterbox (lesson 09), precision and recall (lesson 11)",
                pages={"Tiles": "components/tiles", "Small crystals": "how_to/small_crystals"},
                papers={"SAHI": "section 3", "Crystals 2021": "section 2.2"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        rf"""
        **What it is for.** A network has one input size: 512x512 pixels in the paper (Crystals 2021, section 2.2),
        {SIZE[0]}x{SIZE[1]} in the `tiny` preset. A photograph is larger, and the letterbox reduces it. A crystal with a
        side of $s$ pixels in a photograph of $h \times w$ pixels has in the network's input, of $h_0 \times w_0$, the
        side

        $$s' = z \, s \, \min\left(\frac{{h_0}}{{h}}, \frac{{w_0}}{{w}}\right)$$

        with $z = 1$. In a photograph of 2028x2532 pixels, a crystal of 16 pixels becomes one of
        {16 * fit(2028, 2532, SIZE).scale:.1f}: half a cell of the finest feature map, whose stride is 4. No anchor fits
        it, and nothing that later stages do brings it back.

        So look again, closer (*slicing aided inference*, Akyon et al. 2022, section 3). At *zoom* $z$ the photograph is
        cut into *tiles*, each of which shows $1 / z$ of its height and width. Neighbouring tiles share at least a
        quarter, $o = {OVERLAP:g}$, so that a crystal at the border of one tile lies inside another. Along each side
        there are

        $$n = \left\lceil \frac{{z - 1}}{{1 - o}} \right\rceil + 1$$

        tiles: {tiles_at(2)} in all at zoom 2, {tiles_at(4)} at zoom 4, {tiles_at(8)} at zoom 8. Each costs as much as
        the whole photograph did, and the network stays as it is.
        """
    )
    return


@app.function(hide_code=True)
def tiles_at(zoom):
    """The number of tiles at a zoom of a photograph with the proportions of the network's input."""
    return len(views(2048, 2560, SIZE, zooms=(zoom,)))


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                "These calls make the pictures below: the tiles, what a tile reports, and one detection per crystal:"
            ),
            calls(grid, "views"),
            calls(found_at, "prepare", "to_original"),
            calls(merged, "joined"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    zooms = mo.ui.dropdown(list(ZOOMS), value="1, 2", label="zooms")
    score = mo.ui.slider(0.1, 0.9, step=0.05, value=0.4, label="score threshold", show_value=True)
    crystal = mo.ui.slider(0, 20, value=5, label="crystal (0: the smallest)", show_value=True)
    mo.vstack(
        [
            mo.md(
                f"## Look closer\n\nA drawn photograph of {WIDTH}x{HEIGHT} pixels with many small crystals, and the "
                "network of the lessons, which was trained on drawn shapes only."
            ),
            mo.hstack([zooms, score, crystal], wrap=True, justify="start"),
        ]
    )
    return crystal, score, zooms


@app.function(hide_code=True)
def photograph():
    """The photograph of this lesson, with the boxes and masks of its crystals, the smallest first."""
    drop = scene(SEED, crystals=CRYSTALS, light=0.2, height=HEIGHT, width=WIDTH)
    order = np.argsort((drop.boxes[:, 2:] - drop.boxes[:, :2]).prod(1))
    return drop._replace(boxes=drop.boxes[order], masks=drop.masks[order])


@app.function(hide_code=True)
def grid(zoom):
    """The views of the photograph at a zoom."""
    return views(HEIGHT, WIDTH, SIZE, zooms=(zoom,))


@app.function(hide_code=True)
@lru_cache(maxsize=4)
def found_at(zoom):
    """What the network finds in each view of a zoom, in pixels of the photograph; each reports what it sees whole."""
    image, found = photograph().image, []
    for view in grid(zoom):
        part = image[view.top : view.top + view.height, view.left : view.left + view.width]
        pixels, place = prepare(part, size=SIZE, clahe=False)
        detections = jax.device_get(compiled(every_stage)(pixels[None]).detections)
        one = jax.tree.map(lambda values: values[0], detections)
        found.append(to_original(one, place, view=view, height=HEIGHT, width=WIDTH, trust=trust(zoom, None)))
    return found


@app.function(hide_code=True)
@lru_cache(maxsize=4)
def merged(zooms):
    """The detections of all views of some zooms, one for each crystal."""
    return joined([prediction for zoom in zooms for prediction in found_at(zoom)]).prediction


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def judged(zooms, score):
    """Boxes of the detections of at least this score; which are correct (mask IoU 0.5); which crystals are found."""
    drop, found = photograph(), merged(zooms)
    kept = np.flatnonzero(found.scores >= score)
    truth = {"masks": drop.masks, "classes": [1] * len(drop.masks)}
    predicted = {"masks": [found.rles[i] for i in kept], "classes": [1] * len(kept), "scores": found.scores[kept]}
    matches = match(truth, predicted, iou=0.5)
    right = np.zeros(len(kept), bool)
    right[matches.order] = matches.truth >= 0
    return found.boxes[kept], right, np.isin(np.arange(len(drop.masks)), matches.truth)


@app.function(hide_code=True)
def seen(box, zoom, half=16, scale=5):
    """The part of the network's input around a crystal, enlarged, of a tile that sees it whole; grey if none does."""
    for view in grid(zoom):
        if owns(view, box[None], height=HEIGHT, width=WIDTH)[0]:
            part = photograph().image[view.top : view.top + view.height, view.left : view.left + view.width]
            pixels, place = prepare(part, size=SIZE, clahe=False)
            x1, y1, x2, y2 = place.to_letterbox(box[None] - np.tile(view.box[:2], 2))[0]
            x, y = int((x1 + x2) / 2), int((y1 + y2) / 2)
            around = np.pad(pixels, ((half, half), (half, half), (0, 0)))[y : y + 2 * half, x : x + 2 * half]
            return np.repeat(np.repeat(around, scale, 0), scale, 1)
    return np.full((2 * half * scale, 2 * half * scale, 3), 128, np.uint8)


@app.function(hide_code=True)
def by_size(zooms, score):
    """Chart of the share of crystals found, by their side in the network's input at zoom 1, for zoom 1 and for all."""
    boxes = photograph().boxes
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) * fit(HEIGHT, WIDTH, SIZE).scale
    edges = np.array([0, 6, 9, 13, 100])
    names = ["below 6", "6 to 9", "9 to 13", "above"]
    chart, axes = canvas()
    looks = ((-0.2, (1,), VERMILLION, "//", "zoom 1"), (0.2, zooms, BLUE, "", f"zooms {', '.join(map(str, zooms))}"))
    for shift, which, colour, hatch, name in looks:
        found = judged(which, score)[2]
        groups = [(side >= low) & (side < high) for low, high in pairwise(edges)]
        shares = [found[group].mean() if group.any() else 0 for group in groups]
        axes.bar(np.arange(4) + shift, shares, width=0.38, color=colour, hatch=hatch, label=name)
    axes.set_xticks(range(4), names)
    axes.set(xlabel="side in the network's input at zoom 1, pixels", ylabel="share found", ylim=(0, 1.2))
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    return chart


@app.function(hide_code=True)
def picture(zooms, score, crystal):
    """The tiles; a crystal as the network sees it at each zoom; the merged detections; what is found by size."""
    drop, chosen = photograph(), ZOOMS[zooms]
    box = drop.boxes[min(crystal, len(drop.boxes) - 1)]
    small = cv2.resize(drop.image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    tiles, axes = photo(small)
    last = grid(chosen[-1])
    boxes_over(axes, np.array([view.box for view in last]) / 2, SKY, width=0.8)
    mine = [view.box for view in last if owns(view, box[None], height=HEIGHT, width=WIDTH)[0]]
    boxes_over(axes, np.array(mine[:1]).reshape(-1, 4) / 2, VERMILLION, width=2)
    boxes_over(axes, box[None] / 2, "white", width=1.6)
    closer = np.concatenate([seen(box, zoom) for zoom in chosen], 1)
    boxes, right, found = judged(chosen, float(score))
    over, axes = photo(small)
    boxes_over(axes, drop.boxes[~found] / 2, "white", width=0.8, dash=(0, (1, 1)))
    boxes_over(axes, boxes[~right] / 2, ORANGE, width=1.0, dash=(0, (4, 1.5)))
    boxes_over(axes, boxes[right] / 2, BLUE, width=1.4)
    scale = fit(HEIGHT, WIDTH, SIZE).scale
    side = float(np.sqrt((box[2:] - box[:2]).prod()))
    return {
        f"The {len(last)} view(s) at zoom {chosen[-1]}; a tile (vermillion) that sees the crystal (white) whole": tiles,
        f"The crystal in the network's input: {', '.join(f'{z * scale * side:.0f}' for z in chosen)} pixels": closer,
        f"{right.sum()} of {len(found)} crystals found (blue), {(~right).sum()} false (orange), the others missed "
        f"(dotted)": over,
        "Share of the crystals found, by size": by_size(chosen, float(score)),
    }


@app.cell(hide_code=True)
def _(crystal, score, zooms):
    panels(picture(zooms.value, score.value, crystal.value))
    return


@app.function(hide_code=True)
def found_and_false(zooms, score=0.4):
    """How many crystals of the photograph are found, and how many detections are false."""
    _, right, found = judged(zooms, score)
    return int(found.sum()), int((~right).sum())


@app.function(hide_code=True)
def before_and_after_merging(zooms, score=0.2):
    """How many detections of at least this score the views report together, and how many of these are left."""
    before = [prediction.scores for zoom in zooms for prediction in found_at(zoom)]
    return int((np.concatenate(before) >= score).sum()), int((merged(zooms).scores >= score).sum())


@app.function(hide_code=True)
def on_real_photographs():
    """What the demo's model found in real photographs."""
    rows = [[zooms, f"{found} ({found / IN_ALL:.0%})", false] for zooms, found, false in REAL]
    return table(["zooms", f"found, of {IN_ALL}", "false"], rows)


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                With zoom 1 alone, {found_and_false((1,))[0]} of {len(photograph().boxes)} crystals are found and
                {found_and_false((1,))[1]} detections are false; with zooms 1 and 2 it is {found_and_false((1, 2))[0]}
                and {found_and_false((1, 2))[1]}. The last picture shows which crystals gain most: those that are too
                small at zoom 1, but not at zoom 2.

                The same on six real photographs with {IN_ALL} crystals outlined by eye, half of them no larger than a
                square of 15 pixels, with the model that `crystal demo` trains (mask IoU 0.5, score 0.5):
                """
            ),
            on_real_photographs(),
            mo.md(
                f"""
                The whole photograph alone shows {REAL[0][1]} of them. Closer views find five times as many, and false
                ones too: specks look like crystals when they are enlarged, and the network has never been trained on
                such views. Therefore scores in tiles are multiplied by {UNTRAINED:g}. Which zooms are worth their
                time depends on the size of your crystals; `crystal predict --zoom auto` goes up to the photograph's own
                pixels, and `--zoom none` looks at the whole alone.
                """
            ),
            source(views, owns, merge),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                f"""
                ## What goes wrong without merging

                The views of zooms 1 and 2 together report {before_and_after_merging((1, 2))[0]} detections of a
                score of 0.2 or more. The same crystal is found in the whole, in a tile, and in its neighbour; when each
                crystal is reported once, {before_and_after_merging((1, 2))[1]} are left. Two rules do that:

                - A tile reports only what it *owns*: detections that its inner borders do not cut. A crystal no
                  larger than what neighbours share that is cut in one tile lies whole in the next.
                - Of detections from *different* views whose masks overlap with an IoU of 0.5 or more, only the one of
                  highest score is kept. Masks decide and not boxes, since the boxes of two needles that cross overlap
                  strongly. Detections of the *same* view are never duplicates here: the network saw both, and NMS has
                  already decided (lesson 09).

                Where one lies inside another by 70 %, it may be a facet, or a small crystal on a large one. The one of
                lower score stays, but its score counts {INSIDE_WEIGHT:g} times.
                """
            ),
            mo.md(
                "## Exercises\n\n**1.** `my_side(side, height, width, zoom)`: the side, in a network's input of "
                "256x320, "
                "of a crystal of `side` pixels in a photograph of `height` x `width` pixels."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_side(side, height, width, zoom):
        """In pixels of the network's input."""
        return None  # your turn

    return (my_side,)


@app.function(hide_code=True)
def check_side(attempt):
    """Exercise 1 against `fit`, by which the letterbox scales."""
    cases = [(16.0, 2048, 2560, 1), (16.0, 2048, 2560, 4), (30.0, 1024, 1024, 1), (8.0, 256, 320, 1)]
    right = [zoom * side * fit(height, width, SIZE).scale for side, height, width, zoom in cases]
    return grade(
        attempt, list(zip(cases, right, strict=True)), hint="The smaller of the two ratios: both sides must fit."
    )


@app.function(hide_code=True)
def solve_side(side, height, width, zoom):
    """In pixels of the network's input."""
    return zoom * side * min(256 / height, 320 / width)


@app.cell(hide_code=True)
def _(my_side):
    mo.vstack(
        [
            show(check_side(my_side)),
            solution(
                solve_side,
                "The letterbox keeps the proportions, so the smaller ratio scales both sides. A tile at zoom z is "
                "1/z as "
                "large, and is reduced 1/z as much. At a zoom above the reduction, pixels are only enlarged: nothing "
                "more is seen.",
            ),
            mo.md(
                "**2.** `my_tiles(zoom, overlap)`: the number of tiles at a zoom of a photograph with the proportions "
                "of the network's input, if neighbours share at least `overlap` of their sides."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_tiles(zoom, overlap):
        """The number of tiles in all rows and columns."""
        return None  # your turn

    return (my_tiles,)


@app.function(hide_code=True)
def check_tiles(attempt):
    """Exercise 2 against `views`."""
    cases = [(1, 0.25), (2, 0.25), (4, 0.25), (2, 0.0), (4, 0.5)]
    right = [len(views(2048, 2560, SIZE, zooms=(zoom,), overlap=overlap)) for zoom, overlap in cases]
    return grade(attempt, list(zip(cases, right, strict=True)), hint="The last equation, for rows and for columns.")


@app.function(hide_code=True)
def solve_tiles(zoom, overlap):
    """The number of tiles in all rows and columns."""
    return int(np.ceil((zoom - 1) / (1 - overlap)) + 1) ** 2


@app.cell(hide_code=True)
def _(my_tiles):
    mo.vstack(
        [
            show(check_tiles(my_tiles)),
            solution(
                solve_tiles,
                "With tiles of side 1, the photograph has side z. The first tile covers 1 of it, and each further one "
                "adds at most 1 - o. What is left, z - 1, takes (z - 1) / (1 - o) more tiles, rounded up; the package "
                "then spaces them evenly. Doubling the zoom takes about four times as many.",
            ),
            mo.md(
                "**3.** `my_merge(iou, views)`: the indices of the detections that are kept. `iou[i][j]` is that of "
                "the "
                "masks i and j, highest score first; `views[i]` is the view in which i was found. Leave out a "
                "detection "
                "that has an IoU of 0.5 or more with one kept before, from another view."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_merge(iou, views):
        """A list of indices, highest score first."""
        return None  # your turn

    return (my_merge,)


@app.function(hide_code=True)
def check_merge(attempt):
    """Exercise 3 against `merge`, on bars of pixels, without its rule of what lies inside another."""
    cases = []
    for spans, numbers in (
        ([(0, 8), (0, 8), (12, 20)], [0, 1, 1]),
        ([(0, 8), (0, 8)], [3, 3]),
        ([(0, 9), (3, 12), (6, 15)], [0, 1, 2]),
        ([(0, 8), (1, 9), (1, 9)], [0, 1, 1]),
    ):
        bars = np.array([(np.arange(24) >= low) & (np.arange(24) < high) for low, high in spans])[:, None]
        rles = [encode_patch(*cut(bar), height=1, width=24) for bar in bars]
        shared = (bars[:, None] & bars[None]).sum((2, 3)) / (bars[:, None] | bars[None]).sum((2, 3))
        scores, classes = np.linspace(0.9, 0.5, len(spans)), np.ones(len(spans), int)
        right = merge(rles, scores, classes, np.array(numbers), iou_threshold=0.5, inside_weight=1.0)
        cases.append(((shared.round(3).tolist(), numbers), right.kept))
    return grade(attempt, cases, hint="As NMS (lesson 06), but a detection never removes one of its own view.")


@app.function(hide_code=True)
def solve_merge(iou, views):
    """A list of indices, highest score first."""
    kept = []
    for i, view in enumerate(views):
        if not any(iou[i][k] >= 0.5 and views[k] != view for k in kept):
            kept.append(i)
    return kept


@app.cell(hide_code=True)
def _(my_merge):
    mo.vstack(
        [
            show(check_merge(my_merge)),
            solution(
                solve_merge,
                "The loop is that of NMS: the best first, and only what is *kept* removes others. The difference is "
                "the "
                "second condition. Without it, two crystals that lie one over the other, and that one view shows "
                "correctly as two, would become one.",
            ),
            mo.md("**Next:** lesson 16, a training on ten annotated images, from the files to the curves."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
