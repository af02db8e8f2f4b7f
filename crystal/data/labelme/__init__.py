"""LabelMe's files of any version, checked, turned into COCO's format, and written for correction by hand.

The data's path: a JSON file (`document.py`) is shapes and an image; labels (`labels.py`) say which shapes count and
which belong together (`objects.py`); an object has pixels (`pixels.py`), a COCO annotation (`coco.py`) and files
as LabelMe 3.16.2 wrote them (`folder.py`). `export.py` goes back: from masks to a LabelMe file.
"""

from crystal.data.labelme.coco import to_coco
from crystal.data.labelme.document import LabelmeError, Omission
from crystal.data.labelme.labels import LabelRules

__all__ = ["LabelRules", "LabelmeError", "Omission", "to_coco"]
