"""Faster implementations of operations that are slow in XLA on CPUs, each tested against a plain reference; used where
the config says `kernels="cpu"` (docs/kernels.md).
"""
