"""What a user reads who gives a public function something that it cannot take: one sentence for every slip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import checks


def test_traced_numbers_pass_and_cost_nothing():
    def checked(number, boxes):
        checks.in_range("f: number", number, 0, 1)
        return checks.as_boxes("f: boxes", boxes)

    assert not jax.make_jaxpr(checked)(50.0, jnp.zeros((2, 4))).eqns


@pytest.mark.parametrize("array", [np.zeros((2, 4), int), jnp.zeros((2, 4), jnp.int32), np.zeros((2, 4), np.uint8)])
def test_integers_become_floats_of_the_same_library(array):
    boxes = checks.as_boxes("f: boxes", array)
    assert boxes.dtype == np.float32
    assert isinstance(boxes, type(array))


def test_what_needs_no_change_is_not_copied():
    for array in (np.zeros((2, 4)), jnp.zeros((2, 4)), np.zeros((0, 4), np.float32)):
        assert checks.as_boxes("f: boxes", array) is array


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: checks.whole("f: n", 2.5, least=1), TypeError, "f: n is 2.5; give an integer of at least 1, static"),
        (lambda: checks.whole("f: n", True, least=1), TypeError, "f: n is True; give an integer of at least 1, static"),
        (lambda: checks.in_range("f: x", "1", 0), TypeError, "f: x is '1'; give a number"),
        (lambda: checks.in_range("f: x", -1, 0), ValueError, "f: x is -1; give a number of at least 0"),
        (lambda: checks.in_range("f: x", 0, 0, above=True), ValueError, "f: x is 0; give a number above 0"),
        (lambda: checks.in_range("f: x", float("nan"), 0, 1), ValueError, "f: x is nan; give a number from 0 to 1"),
        (
            lambda: checks.in_range("f: x", 9, 0, 1, remedy="give its inverse"),
            ValueError,
            "f: x is 9; give its inverse",
        ),
        (lambda: checks.shape("f: a", [1], "n"), TypeError, "f: a is a list; give a NumPy or JAX array"),
        (lambda: checks.shape("f: a", np.zeros(3), "n 4"), ValueError, "f: a has shape [3]; give an array [n, 4]"),
        (lambda: checks.shape("f: a", np.zeros(3), "*n 4"), ValueError, "f: a has shape [3]; give an array [..., 4]"),
        (lambda: checks.as_floats("f: a", np.zeros(3, bool), "n"), TypeError, "f: a is bool; give floats or integers"),
        (
            lambda: checks.as_boxes("f: boxes", jnp.zeros((3, 4), jnp.bfloat16)),
            TypeError,
            "f: boxes is bfloat16, too coarse for pixels; give boxes.astype(jnp.float32)",
        ),
    ],
)
def test_texts(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(text)
