"""What the analyses share: reading a run, means over losses, blockwise computation, convergence and errors.

`run_data` gives settings, chains, draws and losses; `blockwise` applies a function to them, lazily or at once; `mean_losses`,
`convergence` and `uncertainty` are the statistics. Nothing here imports an analysis.
"""
