"""Lesson 16: from ten annotated images to a trained network: convert, check, train, and read the curves."""

import marimo

app = marimo.App(app_title="16 Fine-tune on ten images", width="medium")

with app.setup:
    import json
    from functools import lru_cache
    from pathlib import Path

    import jax
    import marimo as mo
    import numpy as np
    from flax import nnx

    from crystal.data.dataset import load_split
    from crystal.data.images import read_image
    from crystal.data.labelme import LabelRules, to_coco
    from crystal.evaluation.assessment import truth_of
    from crystal.evaluation.metrics import paper_map
    from crystal.prediction.overlays import draw_outlines
    from crystal.training.train import resolve, train_command
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import start
    from maskrcnn_jax.lessons.network import every_stage, pretrained, program
    from maskrcnn_jax.lessons.show import BLUE, GREY, ORANGE, PINK, VERMILLION, canvas, panels, photo, source, table
    from maskrcnn_jax.lessons.ten_files import HEIGHT, STEPS, TRAIN, VAL, WIDTH, command, dataset, trained
    from maskrcnn_jax.roi.masks import paste


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 16 Fine-tune on ten images"),
            start(
                5,
                know="training (lesson 10), metrics (lesson 11), the data (lesson 13)",
                pages={
                    "Train on your own data": "how_to/own_data",
                    "Fine-tune": "how_to/fine_tune",
                    "Training": "training",
                },
                papers={"Crystals 2021": "section 2.2 and table 1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** All parts come together: images and outlines on one side, a network that finds crystals on
        the other. Qin et al. outline crystals in LabelMe and train on from the weights of COCO (Crystals 2021, section
        2.2). With few images the start matters most; from random weights, ten images are far too few (lesson 10). Here
        the start is the package's small network, which has seen drawn shapes only, and the ten images are drawn drops,
        each with a LabelMe file beside it. With your own images you give the same commands:

        1. outline every crystal in LabelMe; label all of them with the *same* word;
        2. `crystal convert FOLDER --out DATASET`: from LabelMe's files to COCO's, split into training and validation;
        3. `crystal check DATASET`: what is wrong with it, and what training will make of it (lesson 13);
        4. `crystal train`: the curves below are from its log;
        5. `crystal predict`, and for single images `crystal inspect`: look at what it finds.

        A step sees $b$ images of $N$, so in $T$ steps each image is shown

        $$E = \frac{T b}{N}$$

        times, in other variations each time. Losses of single steps are noisy; to see where they go, plot the mean over
        the last $n$ steps,

        $$\bar L_t = \frac{1}{n} \sum_{i = 0}^{n - 1} L_{t - i} .$$
        """
    )
    return


@app.function(hide_code=True)
def as_typed():
    """The commands of this lesson, as one would type them."""
    words = " ".join(["crystal", *command(Path("drops"), Path("run"))]).replace(" --set", " \\\n    --set", 1)
    return "\n".join(
        [
            f"crystal render --out drops --train {TRAIN} --val {VAL} --scenes simple",
            "crystal check drops",
            words,
            "crystal predict --weights run --images drops/val/images --out found",
            "crystal inspect drops/val/images/drop_val_00001.jpg --weights run --out page.html",
        ]
    )


@app.function(hide_code=True)
def annotated(number=1):
    """An image of the training set with the outlines of its LabelMe file, and that file's first outline."""
    image = dataset() / "train" / "images" / f"drop_train_{number:05d}.jpg"
    document = json.loads(image.with_suffix(".json").read_text())
    figure, axes = photo(read_image(image))
    for shape in document["shapes"]:
        if shape["shape_type"] == "polygon":
            axes.fill(*np.array(shape["points"]).T, fill=False, edgecolor=PINK, lw=1.4)
    first = min((shape for shape in document["shapes"]), key=lambda shape: len(shape["points"]))
    wanted = {name: first[name] for name in ("label", "points", "group_id", "shape_type")}
    return figure, json.dumps(wanted), len(document["shapes"])


@app.cell(hide_code=True)
def _():
    _files = [annotated(number) for number in (1, 2, 3)]
    _coco, _problems = to_coco(dataset() / "train" / "images")
    mo.vstack(
        [
            mo.md(
                f"""
                ## The commands, and the files

                The commands of this lesson; its images have only {WIDTH}x{HEIGHT} pixels, to be drawn quickly:
                """
            ),
            mo.md(f"```\n{as_typed()}\n```"),
            mo.md(
                f"""
                The {len(_coco["images"])} LabelMe files hold {len(_coco["annotations"])} crystals; {len(_problems)} of
                their outlines cannot be used. One outline of the first file:
                """
            ),
            mo.md(f"```json\n{_files[0][1]}\n```"),
            panels(
                {f"Training image {n} with {count} outlines": figure for n, (figure, _, count) in enumerate(_files, 1)}
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    begin = mo.ui.run_button(label="Train (about a minute)")
    begin if mo.running_in_notebook() else None
    return (begin,)


@app.function(hide_code=True)
def trained_with_a_bar():
    """The run of `ten_files.trained`, with its progress shown."""
    with mo.status.progress_bar(
        total=STEPS,
        title="Training",
        subtitle="compiling; a second time is faster",
        show_rate=False,
        show_eta=False,
        remove_on_exit=True,
        disabled=not mo.running_in_notebook(),
    ) as bar:
        return trained(lambda text: bar.update(subtitle=text))


@app.function(hide_code=True)
def outcome():
    """What the training gained."""
    return f"""
        **Done:** {STEPS} steps. On {VAL} validation drops, which are not trained on, the paper's mAP at an IoU
        threshold of 0.5 was {score_of(False):.2f} before the training and is {score_of(True):.2f} now. Always measure
        *before* you train: these drops are easy for the network that it starts from, and where the two numbers hardly
        differ, ten images have little to add.
        """


@app.cell(hide_code=True)
def _(begin):
    waiting = mo.running_in_notebook() and not begin.value
    ready = None if waiting else trained_with_a_bar()
    mo.md("Press the button: the curves follow." if waiting else outcome())
    return (ready,)


@app.cell(hide_code=True)
def _(ready):
    drop = mo.ui.slider(0, VAL - 1, value=0, label="validation drop", show_value=True)
    score = mo.ui.slider(0.1, 0.9, step=0.05, value=0.5, label="score threshold", show_value=True)
    window = mo.ui.slider(1, 20, value=10, label="steps averaged", show_value=True)
    mo.vstack(
        [
            mo.md("## Read the curves, and look at the detections"),
            mo.hstack([drop, score, window], wrap=True, justify="start"),
        ]
        if ready
        else []
    )
    return drop, score, window


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def validation():
    """The validation drops: images, and their crystals as `crystal.evaluation.metrics` takes them."""
    records = load_split(dataset(), "val").records
    return [read_image(record.path) for record in records], [truth_of(record) for record in records]


@app.function(hide_code=True)
@lru_cache(maxsize=64)
def detected(number, after):
    """Scores and masks in a validation drop, with the weights before or after the training."""
    state = trained().weights if after else nnx.split(pretrained())[1]
    found = jax.device_get(program(every_stage)(state, validation()[0][number][None]).detections)
    valid = found.valid[0]
    masks = [
        paste(mask, box, height=HEIGHT, width=WIDTH)
        for mask, box in zip(found.masks[0][valid], found.boxes[0][valid], strict=True)
    ]
    return found.scores[0][valid], np.array(masks, bool).reshape(-1, HEIGHT, WIDTH)


@app.function(hide_code=True)
def score_of(after):
    """The paper's mAP of the validation drops at an IoU threshold of 0.5, before or after the training."""
    predictions = []
    for number in range(len(validation()[0])):
        scores, masks = detected(number, after)
        predictions.append({"masks": masks, "classes": [1] * len(masks), "scores": scores})
    return paper_map(validation()[1], predictions, iou=0.5)


@app.function(hide_code=True)
def logged(name):
    """Steps and values of one column of metrics.jsonl."""
    pairs = [(line["step"], line[name]) for line in trained().metrics if line.get(name) is not None]
    return np.array(pairs, float).reshape(-1, 2).T


@app.function(hide_code=True)
def running_mean(values, n):
    """The mean of the last n values at each place; of fewer at the beginning."""
    return [float(np.mean(values[max(0, t + 1 - n) : t + 1])) for t in range(len(values))]


@app.function(hide_code=True)
def picture(drop, score, window):
    """A validation drop before and after; the training loss; and the mAP during the training."""
    outlined = {}
    for after, name in ((False, "Before the training"), (True, "After it")):
        scores, masks = detected(drop, after)
        kept = scores >= score
        truth = len(validation()[1][drop]["masks"])
        caption = f"{name}: detections: {int(kept.sum())}; crystals outlined: {truth}"
        outlined[caption] = draw_outlines(validation()[0][drop], masks[kept], scores=scores[kept], scale=2)
    loss, axes = canvas()
    steps, values = logged("loss")
    axes.plot(steps, values, ".", color=GREY, ms=4, label="each step")
    axes.plot(steps, running_mean(values, window), color=BLUE, label=f"mean of the last {window}")
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    maps, axes = canvas()
    steps, values = logged("val_map")
    axes.plot([0, *steps], [score_of(False), *values], "o-", color=VERMILLION)
    axes.set(xlabel="step", ylabel="mAP of the validation drops at IoU 0.5", ylim=(0, 1))
    parts, axes = canvas()
    looks = ((BLUE, "-"), (ORANGE, (0, (4, 1.5))), (VERMILLION, ":"), (GREY, (0, (1, 1))), (PINK, (0, (5, 1, 1, 1))))
    for name, (colour, dash) in zip(("roi_class", "roi_box", "roi_mask", "rpn_class", "rpn_box"), looks, strict=True):
        steps, values = logged(f"loss_{name}")
        axes.plot(steps, running_mean(values, window), color=colour, ls=dash, label=name)
    axes.set(xlabel="step", ylabel=f"mean of the last {window}", ylim=(0, None))
    axes.legend(frameon=False, ncols=2, fontsize=8)
    return outlined | {
        "The loss of the training drops": loss,
        "The five losses apart": parts,
        "The validation mAP": maps,
    }


@app.cell(hide_code=True)
def _(drop, ready, score, window):
    mo.stop(not ready)
    panels(picture(drop.value, score.value, window.value))
    return


@app.cell(hide_code=True)
def _(ready):
    mo.stop(not ready)
    mo.md(
        f"""
        In {STEPS} steps each of the {TRAIN} drops was shown {times_shown(STEPS, 2, TRAIN):.0f} times. How to read the
        curves:

        - **Loss and mAP are level from the beginning:** the network could do already what these images teach. More
          steps gain nothing; images of the kind that it gets wrong do.
        - **The loss falls, then stays level, and so does the mAP:** the network has learnt what these images can teach
          it. More steps gain little; more images gain more.
        - **The loss falls, but the mAP falls again:** the network learns its ten images by heart (*overfitting*). Stop
          earlier: `crystal train` keeps the checkpoint of the highest mAP.
        - **The loss does not fall:** the learning rate is too low or far too high (lesson 10), or the outlines do not
          belong to the images: look at the data (lesson 13).
        - **One part stays high:** `rpn_class` and `rpn_box` point to the anchors (lesson 02), `roi_mask` to the
          outlines.
        - **The mAP jumps up and down:** {VAL} drops are few. A crystal more or less changes it; do not believe a
          difference that is smaller than these jumps.
        """
    )
    return


@app.function(hide_code=True)
def times_shown(steps, batch, images):
    """How often each image is shown."""
    return steps * batch / images


@app.cell(hide_code=True)
def _():
    source(to_coco, resolve, train_command)
    return


@app.function(hide_code=True)
@lru_cache(maxsize=1)
def two_labels():
    """Categories of a LabelMe file in which one crystal has another label, without and with a rule that renames it."""
    original = dataset() / "train" / "images" / "drop_train_00001.json"
    document = json.loads(original.read_text())
    document["shapes"][0]["label"] = "xtal"
    changed = original.parent.parent / "typed_two_ways" / original.name
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(json.dumps(document))
    changed.with_suffix(".jpg").write_bytes(original.with_suffix(".jpg").read_bytes())
    rules = (LabelRules(), LabelRules.parse(["xtal=crystal"]))
    return [[category["name"] for category in to_coco(changed, rules=each)[0]["categories"]] for each in rules]


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong with a label that is typed in two ways

                One crystal is labelled `xtal`, all others `crystal`. To the network these are two classes: it is taught
                that this crystal is *not* a crystal, and the output layers are new, since the number of classes differs
                from that of the weights. No error is raised, as two classes may be intended. `crystal convert` lists
                the labels that it finds; read that list.
                """
            ),
            table(
                ["command", "classes"],
                [
                    ["`crystal convert FOLDER --out DATASET`", ", ".join(two_labels()[0])],
                    ["`crystal convert FOLDER --out DATASET --labels xtal=crystal`", ", ".join(two_labels()[1])],
                ],
            ),
            mo.md(
                "## Exercises\n\n**1.** `my_coco_box(points)`: COCO's box `[x, y, width, height]` around the corners "
                "`[x, y]` of a LabelMe polygon."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_coco_box(points):
        """[x, y, width, height] of the smallest box around the points."""
        return None  # your turn

    return (my_coco_box,)


@app.function(hide_code=True)
def check_coco_box(attempt):
    """Exercise 1 by the extremes of the coordinates."""
    cases = []
    for points in ([[1, 2], [5, 2], [3, 8]], [[10.5, 4], [10.5, 9], [2, 9], [2, 4]], [[0, 0], [4, 1], [2, 7], [-1, 3]]):
        low, high = np.min(points, 0), np.max(points, 0)
        cases.append(((points,), [*low, *(high - low)]))
    return grade(attempt, cases, hint="COCO writes width and height where this package has x2 and y2.")


@app.function(hide_code=True)
def solve_coco_box(points):
    """[x, y, width, height] of the smallest box around the points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


@app.cell(hide_code=True)
def _(my_coco_box):
    mo.vstack(
        [
            show(check_coco_box(my_coco_box)),
            solution(
                solve_coco_box,
                "The box reaches from the smallest to the largest coordinate on each axis. Its form is a classic trap: "
                "COCO's third and fourth numbers are a size, those of this package a corner. Read as corners, sizes "
                "give "
                "boxes that lie near the upper left corner of the image, and no error.",
            ),
            mo.md("**2.** `my_mean(values, n)`: the running mean of the second equation, of fewer values at first."),
        ]
    )
    return


@app.cell
def _():
    def my_mean(values, n):
        """At each place the mean of the last n values up to it."""
        return None  # your turn

    return (my_mean,)


@app.function(hide_code=True)
def check_mean(attempt):
    """Exercise 2 against `running_mean`, which smooths the curves."""
    cases = [([3.0, 1.0, 2.0, 6.0], 2), ([5.0, 1.0], 1), ([4.0, 2.0, 0.0], 10), ([1.0, 2.0, 3.0, 4.0, 5.0], 3)]
    hint = "The first place has one value, the second two; no value from the future enters."
    return grade(attempt, [((values, n), running_mean(values, n)) for values, n in cases], hint=hint)


@app.function(hide_code=True)
def solve_mean(values, n):
    """At each place the mean of the last n values up to it."""
    means = []
    for t in range(len(values)):
        last = values[max(0, t - n + 1) : t + 1]
        means.append(sum(last) / len(last))
    return means


@app.cell(hide_code=True)
def _(my_mean):
    mo.vstack(
        [
            show(check_mean(my_mean)),
            solution(
                solve_mean,
                "The slice ends at `t + 1`, so that the value at t is in it, and cannot begin before 0. A mean that "
                "looks "
                "ahead would show the loss falling before it does. The larger n, the smoother the curve, and the later "
                "it shows a change.",
            ),
            mo.md(
                "**Next:** your own images. `crystal --help` lists the commands, and the README has an example of each."
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
