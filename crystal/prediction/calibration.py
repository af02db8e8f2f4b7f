"""How many micrometres a pixel is: as given, or by the name of an imager whose pictures are known."""

from typing import NamedTuple

from crystal.errors import CrystalError


class Imager(NamedTuple):
    """An imager whose scale was published.

    Attributes:
        um_per_pixel: micrometres.
        width: of its pictures in pixels; the scale holds for pictures of this size alone.
        height: the same.
        source: where the figure is from.
    """

    um_per_pixel: float
    width: int
    height: int
    source: str


IMAGERS = {
    "xchem": Imager(
        *(2.837, 1224, 1024),
        "Formulatrix Rock Imager of XChem, Diamond Light Source, plates of three lenses: "
        "xchembku, crystal_plate_objects/swiss3.py",
    ),
}


class CalibrationError(CrystalError, ValueError):
    """Settings that contradict each other, or an imager that is not known."""


class Calibration(NamedTuple):
    """The scale of a batch of pictures.

    Attributes:
        um_per_pixel: micrometres; None where it is not known.
        size: (height, width) in pixels of the pictures it holds for; None: of all.
    """

    um_per_pixel: float | None = None
    size: tuple[int, int] | None = None

    def of(self, height: int, width: int) -> float | None:
        """Micrometres a pixel of a picture of this size; None where that is not known.

        >>> calibration_of(None, "xchem").of(1024, 1224), calibration_of(None, "xchem").of(512, 612)
        (2.837, None)
        """
        return self.um_per_pixel if self.size in (None, (height, width)) else None


UNKNOWN = Calibration()


def calibration_of(um_per_pixel: float | None, imager: str | None) -> Calibration:
    """The scale that `--um-per-pixel` or `--imager` gives.

    Raises:
        CalibrationError: both are given, or the imager is not in the table.

    >>> calibration_of(1.5, None)
    Calibration(um_per_pixel=1.5, size=None)
    """
    if imager is None:
        return Calibration(um_per_pixel)
    if um_per_pixel is not None:
        raise CalibrationError("--um-per-pixel and --imager are two answers to one question: give one of them")
    if imager not in IMAGERS:
        raise CalibrationError(f"--imager {imager}: known are {', '.join(IMAGERS)}; for others give --um-per-pixel")
    known = IMAGERS[imager]
    return Calibration(known.um_per_pixel, (known.height, known.width))
