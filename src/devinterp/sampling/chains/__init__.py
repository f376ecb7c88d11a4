"""The chain loop: steps, draws, what is measured on the way, and when a checkpoint is due. Knows nothing of storage."""
