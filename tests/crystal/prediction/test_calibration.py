"""Micrometres come from one place, and an imager's scale holds for its own pictures alone."""

import pytest

from crystal.errors import CrystalError
from crystal.prediction.calibration import IMAGERS, UNKNOWN, CalibrationError, calibration_of
from crystal.prediction.options import Predict


def test_every_imager_names_its_source():
    for name, imager in IMAGERS.items():
        assert 0.1 < imager.um_per_pixel < 20, name
        assert imager.source


def test_scales():
    assert calibration_of(None, None) == UNKNOWN
    assert UNKNOWN.of(10, 10) is None
    assert calibration_of(0.5, None).of(10, 20) == 0.5
    xchem = calibration_of(None, "xchem")
    assert (xchem.of(1024, 1224), xchem.of(1224, 1024), xchem.of(512, 612)) == (2.837, None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"um_per_pixel": 2.0, "imager": "xchem"}, "one of them"),
        ({"imager": "telescope"}, "known are xchem"),
        ({"um_per_pixel": 0.0}, "above 0"),
        ({"um_per_pixel": float("nan")}, "above 0"),
        ({"watch": True, "images": ("a", "b")}, "one folder"),
    ],
)
def test_contradictions_are_told_before_any_work(tmp_path, options, words):
    with pytest.raises(CrystalError, match=words) as error:
        Predict(**{"weights": tmp_path, "images": (tmp_path,), "out": tmp_path} | options)
    assert isinstance(error.value, (CalibrationError, CrystalError))
