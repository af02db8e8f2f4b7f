"""OpenCV, loaded and set up in one place, so that a missing system library ends in one sentence with its remedy."""

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}): install the system libraries it needs with "
        "`apt-get install libgl1 libglib2.0-0`, then try again"
    ) from error

# What OpenCV cannot do it also returns or raises, and crystal says it in one sentence; no lines of its own beside that.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

__all__ = ["cv2"]
