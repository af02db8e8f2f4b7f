"""Faster ways to compute what XLA computes slowly, each beside its plain reference and tested equal to it."""
