"""How good predictions are: the paper's and COCO's metrics, image by image and over trainings."""
