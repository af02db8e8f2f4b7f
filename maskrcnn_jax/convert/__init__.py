"""COCO weights of other implementations as a `MaskRCNN`: Matterport's h5, torchvision's pth, Detectron2's pkl.

`python -m maskrcnn_jax.convert SOURCE DESTINATION` writes a checkpoint; `load` returns the model.
"""

from maskrcnn_jax.convert.table import ConversionError
from maskrcnn_jax.convert.weights import load, load_config, read

__all__ = ["ConversionError", "load", "load_config", "read"]
