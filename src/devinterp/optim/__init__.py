"""The kernels as torch optimizers, under the import paths of DevInterp 2 and 1.

`sgmcmc` holds the optimizer; `sgld` and `sgnht` are its forms with the arguments of their own that scripts use. `prior` and
`preconditioner` are what it is made of, `metrics` what it measures. Runs of `devinterp.sample` use the kernels themselves.
"""

from devinterp.optim.sgld import SGLD
from devinterp.optim.sgmcmc import SGMCMC
from devinterp.optim.sgnht import SGNHT

__all__ = ["SGLD", "SGMCMC", "SGNHT"]
