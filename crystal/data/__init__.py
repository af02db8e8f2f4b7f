"""Images and annotations in: reading, LabelMe and COCO files, checks, and batches for training."""
