"""How the losses and gradients of one or several chains are computed, and which fast path may be used.

`plan` says which chains advance together, and gives each batch its `engine`: of one chain inside the model (`in_place`, with
the layers below the sampled parameters computed once: `prefix_layers`, `prefix_cache`), or of several, under one or several
restrictions, as one computation (`vectorized`). Both keep the sampled parameters as `weights`. A fast path is used only where
`equivalence` has found that it gives the same numbers: `chunked_check`, `train_mode_check`, `prefix_check`, `vectorization`
(which counts `work`) and `compilation` ask it. `position_check` tries whether
losses depend on where padding stands. `malloc_trim` and `out_of_memory` look after memory.
"""

from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.plan import ChainBatch, engines_of, plan

__all__ = ["ChainBatch", "Engine", "engines_of", "plan"]
