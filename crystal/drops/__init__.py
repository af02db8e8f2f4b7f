"""Crystallization drops drawn from a seed, with the exact mask of every crystal."""
