"""An import path of DevInterp 1; see `devinterp.slt.sampler`."""

from devinterp.slt.sampler import sample, sample_single_chain

__all__ = ["sample", "sample_single_chain"]
