"""Every lesson: it runs from top to bottom, is short, shows the package's own code, and answers its sliders."""

import re

import jax
import pytest

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

from maskrcnn_jax.lessons import network, short_training
from maskrcnn_jax.lessons.catalogue import lessons
from maskrcnn_jax.lessons.export import static_html, visible_words
from maskrcnn_jax.lessons.show import panels
from tests.lesson_solutions import PICTURES, SOLUTIONS

LESSONS = lessons()
MOST_WORDS = 2000  # ten minutes at 200 words a minute


@pytest.fixture(scope="module", autouse=True)
def shorter():
    """Lesson 10 with a fifth of its steps, lesson 12 without compiling what other lessons have compiled: what they show
    is looked for here, not how far they get or how long they take.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "not_yet_compiled", network.compiled)
        patch.setattr(short_training, "STEPS", 6)
        patch.setattr(short_training, "EVERY", 6)
        yield


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_a_lesson_runs_and_its_page_stands_alone(lesson):
    page = static_html(lesson)
    assert 300 < visible_words(page) <= MOST_WORDS
    assert page.count("<math") >= 1, "an equation, rendered"
    assert len(re.findall(r"<img [^>]*src=\"data:image/png;base64,", page)) >= 2
    assert re.search(r"<summary>The code: <code>(maskrcnn_jax|crystal)\.", page), "the package's own code"
    assert re.search(r"(section|table|equation|figure|appendix) \w", page), "a place in a paper"
    assert page.count("Not started: write the body of") in (2, 3), "two or three exercises, unsolved"
    assert 'class="control"' in page
    outside = re.findall(r"""(?:src|href)=["']?(?!data:|#)([^"' >]+)""", page)
    assert outside == [], "readable offline"
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


@pytest.mark.parametrize(("number", "check"), [(n, check) for n, checks in SOLUTIONS.items() for check in checks])
def test_a_right_solution_is_accepted_and_a_wrong_one_is_not(number, check):
    module = next(lesson for lesson in LESSONS if lesson.number == number).load()
    right, *wrong = SOLUTIONS[number][check]
    verdict = getattr(module, check)(right)
    assert verdict.passed, verdict.message
    assert wrong
    for attempt in (*wrong, lambda *_: None):
        verdict = getattr(module, check)(attempt)
        assert not verdict.passed
        assert attempt.__name__ in verdict.message


def test_every_exercise_is_solved_here():
    for lesson in LESSONS:
        checks = set(re.findall(r"^def (check_\w+)", lesson.path.read_text(), re.MULTILINE))
        assert checks == set(SOLUTIONS[lesson.number]), lesson.title
        assert 2 <= len(checks) <= 3


def test_numbers_and_titles():
    assert [lesson.number for lesson in LESSONS] == list(range(1, 13))
    for lesson in LESSONS:
        assert f"# {lesson.number:02d} {lesson.title}\n" in lesson.path.read_text(), "the heading is the title"
