"""Influence scores of several methods, put to the test of retraining: ``devinterp bench attribution``.

`shapes` has models, data and how they are trained; `bank` the losses of models retrained on random subsets, `bif_scores` and
`baselines` the scores of each method around one model of all the data, `compare` what they cost and how well they predict the
bank. `table` makes a report of it.
"""
