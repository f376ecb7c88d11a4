"""The local learning coefficient: of a run, of each observable, of each token.

`analysis` and `tokens` hold what users call. `row_losses` subtracts from the loss of each step that of the same rows at the
initial weights; `schedule` says how much noise of the data remains in a mean over steps; `errors` puts together the error of
DevInterp 2's number.
"""

from devinterp.analyses.llc.analysis import compute_llc, devinterp_analyses
from devinterp.analyses.llc.tokens import token_llc

__all__ = ["compute_llc", "devinterp_analyses", "token_llc"]
