"""The built-in analyses: functions of a tree that are lazy where the tree is and never start a sampling run.

`llc`, `bif` and `susceptibilities` are independent of each other and build on `common`.
"""
