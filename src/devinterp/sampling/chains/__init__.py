"""The chain loop: steps, draws, what is measured on the way, when a checkpoint is due. Knows nothing of storage.

`initial_loss` and `row_losses` measure losses at w0; `loop` takes the draws, with a `stepper` that applies the kernel and saves
and restores its state; `step_metrics` and `mala` measure steps; `checkpointing` says when a checkpoint is due; `reductions`
turn draws into what is stored of them.
"""

from devinterp.sampling.chains.loop import Start, run_chains
from devinterp.sampling.chains.reductions import Reduction, reduction_of

__all__ = ["Reduction", "Start", "reduction_of", "run_chains"]
