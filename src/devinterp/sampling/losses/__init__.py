"""The loss of each sample, and its memory-saving form for language models."""
