"""crystal: finding and outlining protein crystals in crystallization-drop micrographs."""

import os

# OpenCV reads this once, when it is loaded. Damaged files are reported by crystal, in one sentence each.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
