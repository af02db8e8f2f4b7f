"""What a check says of an attempt: not started, wrong, of another shape, raising, right."""

import numpy as np
import pytest

pytest.importorskip("marimo", reason='the lessons need marimo: pip install -e ".[lessons]"')

from maskrcnn_jax.lessons.exercise import Verdict, grade, show

CASES = [((2,), 4), ((3,), 9)]


def test_a_right_attempt_passes_all_cases():
    def square(x):
        return x * x

    assert grade(square, CASES, hint="Multiply.") == Verdict(True, "Right: square passes all 2 cases.")


def test_an_attempt_that_was_not_started_is_no_mistake():
    def square(x):
        return None

    verdict = grade(square, CASES, hint="Multiply.")
    assert not verdict.passed
    assert verdict.message == "Not started: write the body of square in the cell above."


def test_a_wrong_attempt_is_told_by_its_first_wrong_case():
    def square(x):
        return 2 * x

    assert grade(square, CASES, hint="Multiply.").message == "square(3) gives 6, expected 9. Multiply."


def test_another_shape_is_wrong_even_where_it_would_broadcast():
    def twice(values):
        return values[:1]

    verdict = grade(twice, [(([1.0, 1.0],), np.ones(2))], hint="Both.")
    assert not verdict.passed
    assert "shapes (1,) and (2,)" in verdict.message


@pytest.mark.parametrize("answer", ["four", [[1], [1, 2]], {"a": 1}])
def test_an_answer_that_is_no_number_is_wrong_not_an_error(answer):
    def square(x):
        return answer

    assert not grade(square, CASES, hint="Multiply.").passed


def test_what_an_attempt_raises_is_said():
    def square(x):
        return x / 0

    assert "square(2) raises ZeroDivisionError: division by zero" in grade(square, CASES, hint="Multiply.").message


def test_verdicts_are_shown_as_text_not_as_markup():
    assert "&lt;b&gt;" in show(Verdict(False, "<b>")).text
    assert show(Verdict(True, "a")).text != show(Verdict(False, "a")).text
