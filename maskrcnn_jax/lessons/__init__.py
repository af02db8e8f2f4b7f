"""Lessons: one marimo notebook a component, on the package's own code. `python -m maskrcnn_jax.lessons` lists them."""
