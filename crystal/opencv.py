"""OpenCV, loaded in one place, so that a missing system library ends in one sentence with its remedy."""

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}): install the system libraries it needs with "
        "`apt-get install libgl1 libglib2.0-0`, then try again"
    ) from error

__all__ = ["cv2"]
