"""Rows of a dataset as tensors, and which of them are used at which step."""
