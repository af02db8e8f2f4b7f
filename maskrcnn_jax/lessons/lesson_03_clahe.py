"""Lesson 03: CLAHE, local contrast under uneven light."""

import marimo

app = marimo.App(app_title="03 CLAHE", width="medium")

with app.setup:
    from functools import partial

    import marimo as mo
    import numpy as np

    from maskrcnn_jax.image.clahe import clahe, clahe_rgb, equalize
    from maskrcnn_jax.lessons.drops import scene
    from maskrcnn_jax.lessons.exercise import grade, show, solution
    from maskrcnn_jax.lessons.guide import calls, start
    from maskrcnn_jax.lessons.show import BLUE, GREY, VERMILLION, canvas, panels, source, while_you_read

    HEIGHT, WIDTH = 384, 480


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("# 03 CLAHE"),
            start(
                5,
                know="what the histogram of an image is",
                pages={"CLAHE": "components/clahe"},
                papers={"Crystals 2021": "section 2.1, figure 2 and table 1"},
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(
        r"""
        **What it is for.** Under a microscope the light is often uneven, and crystals are nearly as bright as the drop
        around them. Qin et al. (Crystals 2021, section 2.1 and figure 2) enhance the contrast of each image by
        *contrast-limited adaptive histogram equalisation* (CLAHE) before the network sees it. They report that the mask
        mAP on 100 images, at an IoU threshold of 0.65, rises from 0.302 to 0.430 (table 1).

        **Histogram equalisation** maps each grey level $v$ to the share of pixels that are at most as bright:

        $$v \mapsto \frac{255}{N} \sum_{u \le v} h(u)$$

        with $h$ the histogram of $N$ pixels. Where many pixels share a few grey levels, this curve is steep, and the
        contrast between those levels grows. *Adaptive*: each tile of the image has its own curve, and a pixel is mapped
        by interpolating between the curves of the four nearest tiles. *Contrast-limited*: each bin of the histogram is
        first limited (Zuiderveld 1994) to

        $$c = \max\left(\left\lfloor \lambda N / 256 \right\rfloor, 1\right)$$

        pixels, with $\lambda$ the clip limit. The pixels above the limit are distributed evenly over all levels. The
        slope of the curve, and with it the gain in contrast, is then limited to about $\lambda$.
        """
    )
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md("These calls make the pictures below:"),
            calls(picture, "equalize", "clahe"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    clip = mo.ui.slider(0, 12, step=0.5, value=2.0, label="clip limit (0: none)", show_value=True)
    tiles = mo.ui.dropdown({f"{n} x {n}": n for n in (1, 2, 4, 8, 16)}, value="8 x 8", label="tiles")
    light = mo.ui.slider(0, 1, step=0.1, value=0.9, label="unevenness of the light", show_value=True)
    mo.vstack([mo.md("## Choose clip limit and tiles"), mo.hstack([clip, tiles, light], wrap=True, justify="start")])
    return clip, light, tiles


@app.function(hide_code=True)
def grey_drop(light):
    """A drop in grey levels, uint8."""
    image = scene(11, crystals=7, light=light, height=HEIGHT, width=WIDTH).image
    return np.asarray(image.astype(float) @ [0.299, 0.587, 0.114]).round().astype(np.uint8)


@app.function(hide_code=True)
def picture(clip, tiles, light):
    """The original drop, equalised as a whole, and by CLAHE; and the three histograms."""
    grey = grey_drop(light)
    versions = {
        "The original image": grey,
        "Equalised as a whole: one curve for all pixels": np.asarray(equalize(grey)),
        f"CLAHE with clip limit {clip:g} and {tiles}x{tiles} tiles": np.asarray(
            clahe(grey, clip_limit=float(clip), tiles=(tiles, tiles))
        ),
    }
    histogram, axes = canvas(4.2, 4.2 * HEIGHT / WIDTH)
    looks = ((GREY, ":"), (VERMILLION, (0, (4, 1.5))), (BLUE, "-"))
    for image, (colour, dash), name in zip(
        versions.values(), looks, ("original", "equalised as a whole", "CLAHE"), strict=True
    ):
        counts = np.bincount(image.ravel(), minlength=256).reshape(64, 4).sum(1)
        axes.plot(np.arange(64) * 4, 100 * counts / counts.sum(), color=colour, ls=dash, label=name)
    axes.set(xlabel="grey level", ylabel="% of the pixels", xlim=(0, 255), ylim=(0, None))
    axes.legend(frameon=False)
    return versions | {
        "The histograms: in a high, narrow peak many pixels share a few grey levels, so contrast is low": histogram
    }


@app.cell(hide_code=True)
def _():
    while_you_read(*(partial(clahe, grey_drop(0.9), tiles=(n, n)) for n in (1, 2, 4, 16)))
    return


@app.cell(hide_code=True)
def _(clip, light, tiles):
    panels(picture(clip.value, tiles.value, light.value))
    return


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                With 1x1 tiles, one curve serves the whole image, and the dark side stays dark. With 16x16 tiles, a tile
                is hardly larger than a crystal; a crystal that fills its tile is equalised like background and loses
                its contrast with it. 8x8 tiles and a clip limit of 2 are a common choice, and the package's default.

                CLAHE is applied *before* the letterbox (lesson 09), whose black edges would otherwise enter the
                histograms of the outer tiles. It must be applied in training and in prediction alike: a network trained
                on enhanced images does worse on others. In colour images only the lightness (L of the LAB colour space)
                is equalised, so that hues do not change.
                """
            ),
            source(clahe, clahe_rgb, equalize),
        ]
    )
    return


@app.function(hide_code=True)
def enlarged(image):
    """Each pixel as 4x4."""
    return np.repeat(np.repeat(image, 4, axis=0), 4, axis=1)


@app.function(hide_code=True)
def noise_without_a_limit():
    """A region without crystals after CLAHE with and without a limit, and its noise against the limit."""
    grey = grey_drop(0.9)
    drop = scene(11, crystals=7, light=0.9, height=HEIGHT, width=WIDTH)
    # Of the windows of 96 pixels without crystals, the one with the least variation.
    corners = [(y, x) for y in range(0, HEIGHT - 95, 24) for x in range(0, WIDTH - 95, 24)]
    empty = [(y, x) for y, x in corners if not drop.masks[:, y : y + 96, x : x + 96].any()]
    y, x = min(empty, key=lambda c: grey[c[0] : c[0] + 96, c[1] : c[1] + 96].std())
    window = slice(y, y + 96), slice(x, x + 96)
    limits = [0.5, 1, 2, 3, 4, 6, 8, 12, 20, 40]
    noise = [np.asarray(clahe(grey, clip_limit=float(limit)))[window].std() for limit in limits]
    unlimited = np.asarray(clahe(grey, clip_limit=0))
    curve, axes = canvas()
    axes.plot(limits, noise, "o-", color=BLUE, ms=4)
    axes.axhline(unlimited[window].std(), color=VERMILLION, ls=(0, (4, 1.5)))
    axes.axhline(grey[window].std(), color=GREY, ls=":")
    axes.text(
        40, unlimited[window].std(), "CLAHE without a limit", color=VERMILLION, ha="right", va="bottom", fontsize=8
    )
    axes.text(40, grey[window].std(), "original", color=GREY, ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="clip limit", ylabel="standard deviation, grey levels", ylim=(0, 1.12 * unlimited[window].std()))
    return {
        "A region without crystals after CLAHE with a clip limit of 2": enlarged(
            np.asarray(clahe(grey, clip_limit=2.0))[window]
        ),
        "The same region without a limit: noise that looks like texture": enlarged(unlimited[window]),
        "Noise in this region against the clip limit": curve,
    }


@app.cell(hide_code=True)
def _():
    mo.vstack(
        [
            mo.md(
                """
                ## What goes wrong without a clip limit

                An empty tile holds a few grey levels of camera noise. Equalisation without a limit spreads them over
                all 256 levels, and the network sees texture where there is none.
                """
            ),
            panels(noise_without_a_limit()),
            mo.md(
                "## Exercises\n\n**1.** `my_clip_count(clip_limit, area)`: to how many pixels a bin of the histogram "
                "is limited, in a tile of `area` pixels. A clip limit of 0 or less means no limit: return `area`."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_clip_count(clip_limit, area):
        """The c of the second equation."""
        return None  # your turn

    return (my_clip_count,)


@app.function(hide_code=True)
def check_clip_count(attempt):
    """Exercise 1, with cases computed by hand: in the package this rule is part of `clahe`."""
    cases = [
        ((2.0, 2560), 20),
        ((2.0, 1000), 7),
        ((0.5, 100), 1),
        ((0.0, 640), 640),
        ((-1.0, 64), 64),
        ((3.0, 900), 10),
    ]
    return grade(attempt, cases, hint="Round down, and never below 1.")


@app.function(hide_code=True)
def solve_clip_count(clip_limit, area):
    """The c of the second equation."""
    return max(int(clip_limit * area / 256), 1) if clip_limit > 0 else area


@app.cell(hide_code=True)
def _(my_clip_count):
    mo.vstack(
        [
            show(check_clip_count(my_clip_count)),
            solution(
                solve_clip_count,
                "If all levels were equally frequent, each of the 256 bins would hold `area / 256` pixels; "
                "the limit is that number times the clip limit. It is at least 1, since with a limit of 0 no "
                "pixel would be left to equalise. `int` rounds down, as no number here is negative.",
            ),
            mo.md(
                "**2.** `my_curve(levels)`: equalise a list of grey levels by the first equation, as one tile without "
                "a clip limit. Round halves to the even number, as Python's `round` and `numpy.round` do."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_curve(levels):
        """The new level of each pixel, in order."""
        return None  # your turn

    return (my_curve,)


@app.function(hide_code=True)
def check_curve(attempt):
    """Exercise 2 against `clahe` with one tile."""
    cases = []
    for levels in ([10, 10, 20, 30], [0, 255], [7, 7, 7], [3, 1, 2, 2, 2, 9]):
        image = np.array([levels], np.uint8)
        cases.append(((levels,), np.asarray(clahe(image, clip_limit=0, tiles=(1, 1)))[0]))
    return grade(attempt, cases, hint="255 / N times the number of pixels whose level is at most this one.")


@app.function(hide_code=True)
def solve_curve(levels):
    """The new level of each pixel, in order."""
    return [round(255 / len(levels) * sum(other <= level for other in levels)) for level in levels]


@app.cell(hide_code=True)
def _(my_curve):
    mo.vstack(
        [
            show(check_curve(my_curve)),
            solution(
                solve_curve,
                r"The sum over all $u \le v$ of the histogram is the number of pixels that are at most as "
                r"bright as $v$. The brightest pixel always becomes 255, and equal levels stay equal.",
            ),
            mo.md(
                "**3.** `my_blend(top_left, top_right, low_left, low_right, down, right)`: interpolate bilinearly "
                "between the values that the curves of the four nearest tiles give a pixel. `down` and `right` are its "
                "position between their centres, from 0 to 1."
            ),
        ]
    )
    return


@app.cell
def _():
    def my_blend(top_left, top_right, low_left, low_right, down, right):
        """The four numbers, interpolated bilinearly."""
        return None  # your turn

    return (my_blend,)


@app.function(hide_code=True)
def check_blend(attempt):
    """Exercise 3, by hand."""
    cases = [
        ((10, 20, 30, 40, 0.0, 0.0), 10),
        ((10, 20, 30, 40, 0.0, 1.0), 20),
        ((10, 20, 30, 40, 1.0, 0.0), 30),
        ((10, 20, 30, 40, 0.5, 0.25), 22.5),
    ]
    return grade(
        attempt,
        cases,
        hint="Interpolate the upper two and the lower two by `right`, then between the results by `down`.",
    )


@app.function(hide_code=True)
def solve_blend(top_left, top_right, low_left, low_right, down, right):
    """The four numbers, interpolated bilinearly."""
    top = top_left + right * (top_right - top_left)
    low = low_left + right * (low_right - low_left)
    return top + down * (low - top)


@app.cell(hide_code=True)
def _(my_blend):
    mo.vstack(
        [
            show(check_blend(my_blend)),
            solution(
                solve_blend,
                "Interpolate along the upper row and along the lower row, then between the two results. The "
                "other order, columns first, gives the same. Without the interpolation, the edges of the "
                "tiles would be visible in the image.",
            ),
            mo.md("**Next:** lesson 04, from pixels to feature maps."),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
