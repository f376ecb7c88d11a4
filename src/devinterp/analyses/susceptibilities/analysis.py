r"""Susceptibilities: how the loss of a component responds to a change of the data towards one token.

.. math:: \chi(C, x) = -\mathrm{cov}_C(\phi_C, \ell_x - L), \quad \phi_C = L - L_0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import xarray as xr

from devinterp import arguments
from devinterp.analyses.common.convergence import MIN_DRAWS
from devinterp.analyses.common.run_data import Chains
from devinterp.analyses.susceptibilities.effective_samples import error_within_chains
from devinterp.analyses.susceptibilities.estimates import Errors, centred_rows, with_error, z_scores
from devinterp.analyses.susceptibilities.prepared import REQUIRES, Estimator, PreparedRun
from devinterp.analyses.susceptibilities.tables import result_tree
from devinterp.analyses.susceptibilities.task import InitialLoss, TaskSeries
from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.schema import CHAIN, TRACE
from devinterp.types import Analysis

_NAME = "susceptibilities"


def compute_susceptibilities(
    tree: xr.DataTree,
    sampling_task: str | None = None,
    *,
    observable_names: Sequence[str] | None = None,
    include_sampling_task: bool = False,
    estimator: Estimator = "two_run",
    full: str = "full",
    initial_loss: InitialLoss = "auto",
    standard_errors: Errors = "jackknife",
    z_score: bool = False,
    centre_rows: bool = False,
    burnin: int | None = None,
    chains: Chains = "all",
) -> xr.DataTree:
    r"""Compute the susceptibility [1]_ of every token to every weight restriction.

    With :math:`L` the mean loss on the sampling task at each draw, :math:`L_0` that at the starting weights and
    :math:`\phi = L - L_0`, averaged over the restricted run :math:`C` and the unrestricted one,

    .. math:: \chi(C, x) = E_C[\phi L] - E_C[\phi\, \ell_x] - E_C[\phi]\,(E_{full}[L] - E_{full}[\ell_x])

    and in the single-run form with :math:`E_C` in place of :math:`E_{full}`, which is minus the covariance of :math:`\phi` and
    :math:`\ell_x - L` (divisor: number of samples). Lazy for a lazy tree; one pass over the losses for all restrictions.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with several restrictions, one of them of all weights.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on; needed where there are several.
    observable_names : sequence of str, optional
        Give the susceptibilities of the tokens of these observables only; default: of all but the sampling task.
    include_sampling_task : bool, default: False
        Also give the susceptibilities of the sampling task's own tokens.
    estimator : {"two_run", "single_run"}, default: "two_run"
        Compare with the run of all weights, or use each restriction's run alone.
    full : str, default: "full"
        Name of the restriction that moves all weights.
    initial_loss : {"auto", "paired", "trace"}, default: "auto"
        Where :math:`L_0` comes from: ``"paired"`` from the sequences of the sampling task's observable, on which :math:`L` is
        measured, so that their noise cancels; ``"trace"`` from the minibatches before the first step, as in DevInterp 2, whose
        error is then part of the standard errors of restricted runs, which are NaN where it is not recorded. ``"auto"`` is
        ``"paired"`` if the run holds the observable's losses at the starting weights.
    standard_errors : {"none", "jackknife", "ess"}, default: "jackknife"
        By leaving out one chain at a time (NaN for a single chain), or from the effective sample size within chains, which
        does not go with `z_score` and `centre_rows`.
    z_score : bool, default: False
        Subtract from each restriction's column its mean over tokens and divide by its standard deviation: columns of
        different restrictions carry different unknown factors.
    centre_rows : bool, default: False
        Then subtract from each token its mean over restrictions. Transforms are made of each estimate that leaves out a chain
        before these are compared, so that standard errors are those of the transformed values.
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.DataTree
        - ``/labelled``: ``susceptibility(restriction, observable, sequence, position)`` and ``susceptibility_se``, NaN where an
          observable has no such token; ``token_ids(observable, sequence, token)``, -1 there.
        - ``/susceptibilities``: the same as a table ``sus(sus_flat, wr)`` with ``sus_se``; the coordinates ``dataset_id``,
          ``batch`` and ``target_position`` say what a row is, the list in the attribute ``dataset_id_to_name`` what an id is.
        - ``/context``: ``input_ids(ctx_flat)`` with the coordinates ``dataset_id``, ``batch`` and ``position``.

        Attributes: the options, ``initial_loss`` as it was chosen, ``transforms`` in the order in which they were made, and
        ``noise_level`` if the run's was not 1, because susceptibilities scale with its square.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If there is no such observable or restriction, or nothing but the sampling task.

    References
    ----------
    .. [1] G. Baker, G. Wang, J. Hoogland, D. Murfet. Studying small language models with susceptibilities. arXiv:2504.18274,
       appendix C.4.
    """
    arguments.word("standard_errors", standard_errors, get_args(Errors))
    wanted = {"z_score": z_score, "centre_rows": centre_rows}
    transforms = [name for name, value in wanted.items() if arguments.flag(name, value)]
    if transforms and standard_errors == "ess":
        raise InvalidInputError(
            "standard_errors='ess' is an error of susceptibilities that are not transformed: with "
            f"{' and '.join(transforms)} pass 'jackknife' or 'none'."
        )
    prepared = PreparedRun.of(
        tree,
        sampling_task,
        observable_names=observable_names,
        include_sampling_task=include_sampling_task,
        estimator=estimator,
        full=full,
        initial_loss=initial_loss,
        burnin=burnin,
        chains=chains,
        needed_by=_NAME,
    )
    run, series = prepared.run, prepared.series
    chis = prepared.variants(standard_errors)
    for transform in transforms:
        chis = z_scores(chis) if transform == "z_score" else centred_rows(chis)
    within = {
        name: error_within_chains(each, series, prepared.reference) if standard_errors == "ess" else None
        for name, each in prepared.moments.items()
    }
    num_chains = run.sizes[CHAIN]
    estimates = {name: with_error(chi, standard_errors, num_chains, within[name]) for name, chi in chis.items()}
    attrs = {**prepared.attrs, **{name: int(name in transforms) for name in wanted}, "transforms": transforms}
    return result_tree(run, estimates, attrs, _error_attrs(run, series, standard_errors))


def _error_attrs(run: xr.DataTree, series: TaskSeries, standard_errors: Errors) -> dict[str, Any]:
    """Return the attributes of the standard errors: degrees of freedom, and why they are NaN if they are."""
    attrs: dict[str, Any] = {}
    if standard_errors == "jackknife":
        attrs["degrees_of_freedom"] = run.sizes[CHAIN] - 1
        if run.sizes[CHAIN] == 1:
            attrs["reason"] = "a jackknife over chains needs at least two"
    num_draws = series.loss.shape[2]
    if standard_errors == "ess" and num_draws < MIN_DRAWS:
        attrs["reason"] = f"{num_draws} draws a chain have no effective sample size: at least {MIN_DRAWS} are needed"
    if series.initial_loss == "trace" and not {"w0_loss_mean_se", "init_loss_mean_se"} & set(run[TRACE].data_vars):
        attrs.setdefault("reason", "the run does not record the error of the loss at the starting weights")
    return attrs


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this module."""
    return [Analysis(name="susceptibilities", compute=compute_susceptibilities, requires=REQUIRES)]
