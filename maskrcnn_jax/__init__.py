"""Mask R-CNN from scratch in JAX and Flax NNX, one short module a component."""
