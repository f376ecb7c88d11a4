"""Sampling: from a model and data to draws, chain by chain."""
