"""The local learning coefficient: of a run, of each observable, of each token.

`analysis` and `tokens` hold what users call; `estimates` puts the coefficients in a result side by side, and
`traces` gives the losses along the chains. `row_losses` subtracts from the loss of each step that of the same rows at the
initial weights; `schedule` says how much noise of the data remains in a mean over steps; `errors` puts together the error of
DevInterp 2's number. `difference` compares the runs of a study.
"""

from devinterp.analyses.llc.analysis import compute_llc, devinterp_analyses
from devinterp.analyses.llc.difference import difference
from devinterp.analyses.llc.estimates import estimates
from devinterp.analyses.llc.tokens import token_llc
from devinterp.analyses.llc.traces import loss_traces

__all__ = ["compute_llc", "devinterp_analyses", "difference", "estimates", "loss_traces", "token_llc"]
