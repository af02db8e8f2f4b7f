"""`--zoom`: what it takes, and what auto makes of an image's size."""

import pytest

from crystal.errors import RangeError
from crystal.prediction.zooms import UNTRAINED, WHOLE, as_trained, parse_zoom, trust, zooms_of
from maskrcnn_jax.image.tiles import views


@pytest.mark.parametrize("text", ["", "2,4", "1,4,2", "1,1", "1,x", "1,inf", "1,nan", "0.5,1", "all"])
def test_refusals(text):
    with pytest.raises(RangeError, match="must be auto, none, or rising numbers that begin with 1"):
        parse_zoom(text)


@pytest.mark.parametrize(
    ("height", "width", "closer"),
    [
        (1, 1, ()),
        (256, 320, ()),
        (500, 320, (1.7,)),
        (960, 1200, (1.7, 3.2)),
        (2704, 3376, (1.7, 3.2, 6.2)),
        (9, 5000, (1.7, 3.2, 6.2, 12.2)),
    ],
)
def test_auto_looks_closer_up_to_the_images_own_pixels(height, width, closer):
    assert zooms_of(height, width, (256, 320), "auto") == (1.0, *closer)
    assert zooms_of(height, width, (256, 320), (1.0, 3.0)) == (1.0, 3.0)


@pytest.mark.parametrize("more", range(50))
def test_autos_grids_double_whatever_the_size(more):
    """2 x 2, 4 x 4 and 8 x 8 tiles: rounding to whole pixels adds no row."""
    height, width, size = 2400 + 7 * more, 3000 + 11 * more, (256, 320)
    zooms = zooms_of(height, width, size, "auto")
    assert [len(views(height, width, size, zooms=(zoom,))) for zoom in zooms] == [1, 4, 16, 64]


TRAINED = ((None, False), ((1.0, 1.0), False), ((1.0, 1.4), True), ((1.0, 9.0), True))


@pytest.mark.parametrize(("trained", "close"), TRAINED)
def test_scores_in_tiles_count_in_full_where_training_showed_closer_views(trained, close):
    assert trust(1.0, trained) == 1
    assert trust(2.0, trained) == (1 if close else UNTRAINED)
    assert as_trained(trained) == ("auto" if close else WHOLE)
