"""`--zoom`: what it takes, and what auto makes of an image's size."""

import pytest

from crystal.errors import RangeError
from crystal.prediction.zooms import UNTRAINED, WHOLE, as_trained, parse_zoom, trust, zooms_of


@pytest.mark.parametrize("text", ["", "2,4", "1,4,2", "1,1", "1,x", "1,inf", "1,nan", "0.5,1", "all"])
def test_refusals(text):
    with pytest.raises(RangeError, match="must be auto, none, or rising numbers that begin with 1"):
        parse_zoom(text)


@pytest.mark.parametrize(
    ("height", "width", "most"),
    [(1, 1, 1), (256, 320, 1), (500, 320, 2), (960, 1200, 4), (2704, 3376, 8), (9, 5000, 16)],
)
def test_auto_doubles_up_to_the_images_own_pixels(height, width, most):
    assert zooms_of(height, width, (256, 320), "auto") == tuple(2.0**k for k in range(most.bit_length()))
    assert zooms_of(height, width, (256, 320), (1.0, 3.0)) == (1.0, 3.0)


TRAINED = (
    (None, {1.0}, WHOLE),
    ((1.0, 1.0), {1.0}, WHOLE),
    ((1.0, 1.4), {1.0, 2.0}, "auto"),
    ((1.0, 2.9), {1.0, 2.0, 4.0}, "auto"),
    ((1.0, 9.0), {1.0, 2.0, 4.0, 8.0}, "auto"),
)


@pytest.mark.parametrize(("trained", "full", "measured_at"), TRAINED)
def test_scores_count_in_full_at_zooms_like_those_of_training(trained, full, measured_at):
    assert {zoom for zoom in (1.0, 2.0, 4.0, 8.0) if trust(zoom, trained) == 1} == full
    assert {trust(zoom, trained) for zoom in {2.0, 16.0} - full} <= {UNTRAINED}
    assert as_trained(trained) == measured_at
