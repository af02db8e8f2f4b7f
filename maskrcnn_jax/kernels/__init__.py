"""Faster implementations of operations that are slow in XLA, each tested against a plain reference."""
