"""Recorders: what is stored of the model at every draw beside losses, each in one file and registered by an entry point.

In each file: what is recorded and what it costs, ``build`` with the settings, and the hook. `device_copy` keeps constants of a
recorder where the model is.
"""
