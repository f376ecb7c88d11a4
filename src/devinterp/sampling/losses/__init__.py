"""The loss of each sample (`loss`), and its memory-saving form for language models.

That form takes hidden states from before the `unembedding` and computes losses in chunks of rows (`chunked_cross_entropy`); an
embedding that shares the unembedding's weight adds its gradient in place (`tied_embedding`).
"""

from devinterp.sampling.losses.loss import CustomLoss, Loss, NextTokenLoss

__all__ = ["CustomLoss", "Loss", "NextTokenLoss"]
