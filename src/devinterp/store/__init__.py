"""The store: creating, writing and opening. The only place that imports zarr."""
