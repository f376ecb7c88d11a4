"""Runs the chains that are not finished: in this process, in local worker processes or on a Dask cluster."""
