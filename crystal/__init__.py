"""crystal: finding and outlining protein crystals in crystallization-drop micrographs."""

import os

# OpenCV reads these once, when it is loaded. Damaged files are reported by crystal, in one sentence each.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "178956970")  # as crystal.data.images.MAX_PIXELS
