r"""Differences of learning coefficients between the runs of a study, with paired errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import runs
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.mean_losses import share_minibatches, trace_means, trace_start, trace_start_error
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    labels,
    setting,
    steps_after,
    use_chains,
)
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses
from devinterp.analyses.llc.schedule import data_shares
from devinterp.errors import BrokenChainsError, InvalidInputError
from devinterp.schema import CHAIN, RESTRICTION, STEP, TRACE
from devinterp.study_labels import Label, StudyLabels

#: What it reads of each run.
DIFFERENCE_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss", *STATUS_REQUIRED)


@dataclass(frozen=True)
class _Series:
    """What a difference takes from one run.

    Parameters
    ----------
    rise : xarray.DataArray
        n_beta times the rise of the loss over that at w0, ``(restriction, chain, step)`` after burn-in.
    start_error : xarray.DataArray or float
        Error of the loss at w0, times n_beta; 0 where each minibatch is compared with itself.
    share : float
        How much of the variance of minibatches the mean over steps keeps.
    is_shared : bool
        Whether chains see the same minibatches.
    """

    rise: xr.DataArray
    start_error: xr.DataArray | float
    share: float
    is_shared: bool


def difference(
    tree: xr.DataTree,
    *,
    along: str | None = None,
    reference: str = "previous",
    burnin: int | None = None,
    chains: Chains = "all",
) -> xr.Dataset:
    r"""Compute how much the learning coefficient changes from one run of a study to the next, with a paired error.

    .. math:: \Delta\hat\lambda = n\beta_2 (\mathrm{E}[L_2(w)] - L_2(w_0)) - n\beta_1 (\mathrm{E}[L_1(w)] - L_1(w_0))

    The error is that of the mean of the difference itself, step by step and chain by chain. Where both runs saw the same
    minibatches and the same noise, as in a study by default, what these have in common cancels, and the error is smaller than
    that of two separate coefficients; where they did not, it is as large.

    Parameters
    ----------
    tree : xarray.DataTree
        A study, or a part of one.
    along : str, optional
        Dimension of the study to compare along, such as ``"checkpoint"``; not needed where there is only one.
    reference : {"previous", "first"}, default: "previous"
        Whether each run is compared with the one before it, or all with the first.
    burnin : int, optional
        As in `devinterp.analyses.llc.compute_llc`.
    chains : {"all", "finished"}, default: "all"
        As in `devinterp.analyses.llc.compute_llc`; runs without a finished chain are left out.

    Returns
    -------
    xarray.Dataset
        Over the study's dimensions, `along` without its first label, and ``restriction`` where there are several:
        ``llc_difference`` and its standard error ``llc_difference_se``, of the paired estimate where both runs store what it
        needs, else of DevInterp 2's; ``separate_se``, what the error would be without pairing; ``compared_with``, the label of
        the other run. `devinterp.analyses.common.uncertainty.confidence_interval` gives intervals of ``llc_difference``.

    Raises
    ------
    InvalidInputError
        If the tree is no study, or holds a single run along the dimension.
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    """
    if reference not in ("previous", "first"):
        raise InvalidInputError(f"`reference` (={reference!r}) must be 'previous' or 'first'.")
    nodes = runs.find(tree, needed_by="difference")
    study = StudyLabels.of(nodes)
    if study is None:
        raise InvalidInputError(
            "`difference` compares the runs of a study along what varies in it; this tree is none: make one with "
            "`devinterp.study`."
        )
    dim = _dimension(study, along)
    parts: dict[str, xr.Dataset] = {}
    for line in study.lines(dim):
        parts |= _along_line(nodes, line, reference, burnin, chains)
    if not parts:
        raise InvalidInputError(f"`difference` needs two runs along {dim!r}; this study has one.")
    kept = StudyLabels(study.dims, {path: study.labels[path] for path in parts})
    joined: xr.Dataset = runs.join_study(parts, kept, name="difference")
    return joined


def _dimension(study: StudyLabels, along: str | None) -> str:
    if along is None and len(study.dims) == 1:
        return next(iter(study.dims))
    if along is None or along not in study.dims:
        raise InvalidInputError(f"`along` (={along!r}) must be one of the study's dimensions: {', '.join(study.dims)}.")
    return along


def _along_line(
    nodes: Mapping[str, xr.DataTree],
    line: list[tuple[Label, str]],
    reference: str,
    burnin: int | None,
    chains: Chains,
) -> dict[str, xr.Dataset]:
    """Return the difference of each run on a line of the study from another one, by the path of the later run."""
    parts: dict[str, xr.Dataset] = {}
    before: tuple[Label, _Series] | None = None
    for label, path in line:
        try:
            series = _series(nodes[path], burnin, chains)
        except BrokenChainsError as error:
            if chains == "finished":
                continue
            raise BrokenChainsError(f"run {path!r}: {error}") from None
        if before is not None:
            parts[path] = _compare(before[1], series).assign(compared_with=((), before[0]))
        if before is None or reference == "previous":
            before = label, series
    return parts


def _series(node: xr.DataTree, burnin: int | None, chains: Chains) -> _Series:
    run = runs.only(node, name="difference", requires=DIFFERENCE_REQUIRES)
    n_beta = float(setting(run, "n_beta", needed_by="difference"))
    run, _ = use_chains(run, chains, needed_by="difference")
    burnin = burnin_steps(run, burnin)
    rows = RowLosses.of(run)
    if rows is None:
        rise = trace_means(run) - trace_start(run)
        start_error: xr.DataArray | float = _labelled(run, n_beta * trace_start_error(run))
    else:
        rise, start_error = StepLosses.of(run, rows).rise, 0.0
    share, _ = data_shares(run, burnin)
    kept = _labelled(run, n_beta * rise.isel({STEP: steps_after(run, burnin)})).drop_vars(STEP, errors="ignore")
    return _Series(kept.compute(), start_error, float(np.asarray(share)), share_minibatches(run))


def _labelled(run: xr.DataTree, variable: xr.Variable) -> xr.DataArray:
    """Return a variable with the labels of its restrictions and chains, by which runs are aligned."""
    coords = labels(run.children[TRACE], RESTRICTION, CHAIN)
    return xr.DataArray(variable.compute(), {name: coord for name, coord in coords.items() if name in variable.dims})


def _compare(one: _Series, other: _Series) -> xr.Dataset:
    """Return how much larger the coefficient of the other run is, and the errors of that."""
    is_shared, share = one.is_shared or other.is_shared, max(one.share, other.share)
    starts = one.start_error**2 + other.start_error**2
    if one.rise.sizes[STEP] == other.rise.sizes[STEP]:
        change = other.rise - one.rise  # of the restrictions and chains that both have
        if not change.size:
            raise InvalidInputError("`difference` needs runs with common restrictions and chains.")
        error = mean_error(change, shared=is_shared, draw=STEP, data_share=share)
        mean = change.mean([CHAIN, STEP])
    else:
        error, mean = None, other.rise.mean([CHAIN, STEP]) - one.rise.mean([CHAIN, STEP])
    separate = [mean_error(each.rise, shared=each.is_shared, draw=STEP, data_share=each.share) for each in (one, other)]
    apart = (separate[0] ** 2 + separate[1] ** 2 + starts) ** 0.5
    if error is None:
        paired, degrees = apart, min(each.attrs["degrees_of_freedom"] for each in separate)
    else:
        degrees = error.attrs["degrees_of_freedom"]
        paired = (error**2 + starts) ** 0.5
    paired.attrs["degrees_of_freedom"] = degrees
    result = xr.Dataset({"llc_difference": mean, "llc_difference_se": paired, "separate_se": apart})
    if result.sizes.get(RESTRICTION) == 1:
        result = result.squeeze(RESTRICTION, drop=True)
    return result
