"""Adapters of model families, where the parts of a model are, and which weights a restriction moves."""
