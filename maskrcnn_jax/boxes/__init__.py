"""Boxes: geometry, deltas, IoU matching, sampling and non-maximum suppression."""
