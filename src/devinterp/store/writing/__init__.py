"""Writing a run: draws, checkpoints and status, through one background thread."""
