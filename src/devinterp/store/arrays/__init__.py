"""The arrays of a run: their shapes, dims and chunks, and creating them."""
