"""Every lesson: it runs from top to bottom, is short, shows the package's own code, and answers its sliders."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

from crystal.data.loader import MASK_SIZE
from crystal.drops.drop import draw_drop
from crystal.prediction.merging import merge
from maskrcnn_jax.config import MaskRCNNConfig
from maskrcnn_jax.lessons import network, short_training, ten_files
from maskrcnn_jax.lessons.catalogue import lessons
from maskrcnn_jax.lessons.export import static_html, visible_words
from maskrcnn_jax.lessons.guide import PAPERS, SITE
from maskrcnn_jax.lessons.show import panels
from tests.lesson_solutions import PICTURES, WRONG

LESSONS = lessons()
REALLY_TRAIN = ten_files.train
MOST_MINUTES, WORDS_A_MINUTE = 10, 200
NAMES = ("roi_class", "roi_box", "roi_mask", "rpn_class", "rpn_box")
ROOT = Path(__file__).parents[3]


def not_trained(on_step):
    """The log of a training, and the weights it would have started from."""
    steps = [{f"loss_{name}": 1 / step for name in NAMES} | {"step": step, "loss": 5 / step} for step in range(1, 61)]
    log = steps + [{"step": step, "val_map": step / 100} for step in (20, 40, 60)]
    for step in steps:
        on_step(f"step {step['step']}")
    return ten_files.Run(log, nnx.split(network.pretrained())[1])


@pytest.fixture(scope="module", autouse=True)
def shorter():
    """Lesson 10 with a fifth of its steps, lesson 12 without compiling what other lessons have compiled, lesson 16
    without its training: what they show is looked for here, not how far they get or how long they take.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "not_yet_compiled", network.compiled)
        patch.setattr(short_training, "STEPS", 6)
        patch.setattr(short_training, "EVERY", 6)
        patch.setattr(ten_files, "train", not_trained)
        yield


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_lesson_runs_and_its_page_stands_alone(lesson):
    page = static_html(lesson)
    assert 300 < visible_words(page) <= MOST_MINUTES * WORDS_A_MINUTE
    assert page.count("<math") >= 1, "an equation, rendered"
    assert "$$" not in page, "every equation, also one whose line begins like a list's"
    assert len(re.findall(r"<img [^>]*src=\"data:image/png;base64,", page)) >= 2
    assert re.search(r"<summary>The code: <code>(maskrcnn_jax|crystal)\.", page), "the package's own code"
    assert re.search(r"(section|table|equation|figure|appendix) \w", page), "a place in a paper"
    assert page.count("Not started: write the body of") in (2, 3), "two or three exercises, unsolved"
    assert 'class="control"' in page
    assert re.findall(r"""src=["']?(?!data:)([^"' >]+)""", page) == [], "readable offline"
    links = re.findall(r"""href=["']?(?!#)([^"' >]+)""", page)
    assert all(link.startswith((SITE, *PAPERS.values())) for link in links)
    pages = [link.removeprefix(f"{SITE}/").removesuffix(".html") for link in links if link.startswith(SITE)]
    assert pages
    assert all((ROOT / "docs" / f"{name}.md").exists() for name in pages)
    words, minutes = visible_words(page), int(re.search(r"(\d+) minutes to read", page)[1])
    assert 0 <= minutes - words / WORDS_A_MINUTE <= 2
    assert page.count("<summary>Solution</summary>") == page.count("Not started: write the body of")
    assert "import" not in "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert page.count("<script") == 0


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_slider_changes_the_picture_and_compiles_nothing_again(lesson, caplog):
    module, settings = lesson.load(), PICTURES[lesson.number]
    first, second = (panels(module.picture(**each)).text for each in settings)
    assert first != second
    with jax.log_compiles():
        again = [panels(module.picture(**each)).text for each in settings]
    assert again == [first, second], "the same settings give the same picture"
    assert "Compiling" not in caplog.text


@pytest.mark.parametrize(("number", "check"), [(n, check) for n, checks in WRONG.items() for check in checks])
def test_the_solution_shown_is_accepted_and_a_wrong_one_is_not(number, check):
    module = lesson(number)
    verdict = getattr(module, check)(getattr(module, check.replace("check_", "solve_")))
    assert verdict.passed, verdict.message
    for attempt in (*WRONG[number][check], lambda *_: None):
        verdict = getattr(module, check)(attempt)
        assert not verdict.passed
        assert attempt.__name__ in verdict.message


def lesson(number):
    return LESSONS[number - 1].load()


def test_conventions_of_boxes_differ_for_small_ones():
    of = lesson(1)
    for side in (8, 200):
        box, moved = (np.asarray(corners, np.float32)[None] for corners in of.a_third_apart(side))
        assert of.iou(box, moved).item() == pytest.approx(0.5, abs=1e-6)
    inclusive = [of.inclusive_iou(*of.a_third_apart(side)) for side in (8, 200)]
    assert inclusive[0] > 0.54
    assert inclusive[1] < 0.502


def test_large_anchors_miss_the_small_crystals_of_the_first_drop():
    crystals, at_half, at_70 = lesson(2).fitted(32)
    assert (at_half, at_70) == (0, 0)
    small = lesson(2).fitted(12)
    assert small[:2] == (crystals, crystals)
    assert 0 < small[2] < crystals, "no size suits all"


def test_channels_double_from_c2_to_c5_of_resnet_101():
    assert MaskRCNNConfig.paper().backbone.channels == (256, 512, 1024, 2048)


def test_a_deep_network_learns_with_shortcuts_only():
    deep_plain, deep, shallow_plain = (lesson(4).learnt(*of)[-1] for of in ((32, False), (32, True), (8, False)))
    assert deep < 0.1
    assert shallow_plain < 0.1
    assert deep_plain > (0.5 if jax.__version__.startswith("0.10.") else 0.4)  # 0.47 with jax 0.12


def test_without_the_rule_of_the_best_anchor_crystals_are_not_trained_on():
    of = lesson(5)
    assert 0 < of.without_rule(9) < len(of.scene(9, crystals=10).boxes)
    positive, negative = of.labelled(9)
    assert negative > 100 * positive
    on_crystals, elsewhere = of.median_objectness()
    assert elsewhere < 0.1 < 0.5 < on_crystals


def test_nms_removes_duplicates_of_the_networks_own_candidates():
    of = lesson(6)
    boxes, scores = of.candidates(6)
    found, duplicates = [], []
    for threshold in (0.5, 1.0):
        kept, filled, _ = jax.device_get(of.suppress(boxes, scores, threshold, 0.0))
        hits = of.found_and_double(6, kept[filled])
        found.append(hits[0])
        duplicates.append(hits[1])
    assert found[0] == found[1], "no crystal of this drop is lost"
    assert duplicates[0] < duplicates[1] / 5


def test_from_56_to_896_pixels_a_box_spans_14_to_28_cells():
    spanned = [lesson(7).cells_spanned(side) for side in (24, 56, 111, 112, 224, 448, 895)]
    assert spanned == [6, 14, 27.75, 14, 14, 14, pytest.approx(28, abs=0.1)]


def test_roi_pool_and_roi_align_are_compared_by_the_same_reduction():
    of = lesson(7)
    level = np.full((12, 12), 3.0)
    for reduce in ("mean", "max"):
        assert (of.roi_pool(level, [1.3, 2.2, 8.7, 9.4], 3, reduce)[0] == 3).all()
    ramp = np.arange(12.0)[None].repeat(12, 0)
    assert of.roi_pool(ramp, [0, 0, 12, 12], 2, "mean")[0][0].tolist() == [2.5, 8.5]
    assert of.roi_pool(ramp, [0, 0, 12, 12], 2, "max")[0][0].tolist() == [5, 11]


def test_the_box_head_improves_the_first_proposal_of_its_lesson():
    before, after = lesson(8).before_and_after(7, -5, 1.15)
    assert after > before + 0.1


def test_the_short_training_learns():
    before, after = lesson(10).fall_of_the_loss()
    assert after < 0.9 * before


def test_predictions_that_are_four_pixels_off_lose_average_precision():
    of = lesson(11)
    assert of.ap_of(2, 0.5) > of.ap_of(4, 0.5) > of.ap_of(4, 0.75)


def test_without_fixed_slots_programs_are_compiled_again_and_again():
    programs = lesson(12).programs_compiled(4)
    assert programs[19] > 5
    assert programs[-1] > programs[19]


def test_needles_lose_most_in_small_masks():
    of = lesson(13)
    assert of.lowest_iou(28) < 0.9 < of.lowest_iou(of.STORED)
    assert of.STORED == MASK_SIZE
    for seed in range(16):
        drop = draw_drop(seed, height=256, width=320, light=0.2, crystals=6)
        kinds = [instance.kind for instance in drop.instances if not instance.ignored]
        faithful = of.faithfulness(seed, 28)
        assert all(kind == "needle" for kind, kept in zip(kinds, faithful, strict=True) if kept < 0.9)
    assert 0.5 < of.forgotten()[1] < 0.9, "wrong, but not so that a loss shows it"


def test_filters_die_of_shifts_and_no_distribution_shows_a_wrong_order():
    of = lesson(14)
    (alive, channels), (fewer, _) = of.dead_channels(0), of.dead_channels(-3)
    assert alive < channels / 4 < fewer
    assert 0.5 < of.deviation_of("mask_head.convs.1") < 2
    assert max(map(of.deviation_of, ("box_head.classes", "rpn.deltas"))) < 0.3
    assert of.shuffled()[2] < 0.9


def test_tiles_find_more_of_small_crystals_as_measured_on_real_ones():
    of = lesson(15)
    assert [of.tiles_at(zoom) for zoom in (2, 4, 8)] == [9, 25, 121]
    assert of.found_and_false((1, 2))[0] > of.found_and_false((1,))[0]
    before, after = of.before_and_after_merging((1, 2))
    assert before > 2 * after
    rules = inspect.signature(merge).parameters
    assert (rules["iou_threshold"].default, rules["inside_threshold"].default) == (0.5, 0.7)
    page = (ROOT / "docs" / "how_to" / "small_crystals.md").read_text()
    assert f"photographs with {of.IN_ALL} crystals" in page
    for zooms, found, false in of.REAL:
        assert f"| {zooms} | {found} | {false} |" in page
    assert 5 <= of.REAL[-1][1] / of.REAL[0][1] < 6, "five times as many"
    assert "half of them no larger than a square of 15 pixels" in page


def test_a_label_typed_in_two_ways_is_two_classes():
    assert sorted(lesson(16).two_labels()[0]) == ["crystal", "xtal"]
    assert lesson(16).two_labels()[1] == ["crystal"]
    assert lesson(16).times_shown(ten_files.STEPS, 2, ten_files.TRAIN) == 12


@pytest.mark.slow
def test_the_last_lesson_trains(monkeypatch):
    of, told = lesson(16), []
    monkeypatch.setenv("XLA_FLAGS", "")  # as people run it: of 60 steps the time goes into running, not into compiling
    run = REALLY_TRAIN(told.append)
    assert len(told) >= ten_files.STEPS - 1
    assert sum("loss" in line for line in run.metrics) == ten_files.STEPS
    monkeypatch.setattr(ten_files, "_runs", [run])
    of.detected.cache_clear()
    before, after = of.score_of(False), of.score_of(True)
    assert before > 0.6, "easy for the network that it starts from"
    assert abs(after - before) < 0.1
    of.detected.cache_clear()


def test_every_exercise_is_solved_here():
    for lesson in LESSONS:
        checks = set(re.findall(r"^def (check_\w+)", lesson.path.read_text(), re.MULTILINE))
        assert checks == set(WRONG[lesson.number]), lesson.title
        assert 2 <= len(checks) <= 3


def test_numbers_and_titles():
    assert [lesson.number for lesson in LESSONS] == list(range(1, len(LESSONS) + 1))
    for lesson in LESSONS:
        assert f'"# {lesson.number:02d} {lesson.title}"' in lesson.path.read_text(), "the heading is the title"
