"""How good predictions are: the paper's and COCO's metrics, image by image and over trainings."""

from crystal.evaluation.metrics import coco_metrics, paper_map, precision_recall

__all__ = ["coco_metrics", "paper_map", "precision_recall"]
