"""Where the parts of a model are (placeholder written by the models work)."""
