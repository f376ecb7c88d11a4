"""A plugin in one file: ``tree.slt.singular_fluctuation()``, and ``devinterp singular-fluctuation STORE``."""

from __future__ import annotations

import json

import xarray as xr

from devinterp import Analysis, BrokenChainsError, InvalidInputError, hookimpl


def singular_fluctuation(tree: xr.DataTree, *, observable: str) -> xr.Dataset:
    r"""Compute the singular fluctuation, half the functional variance of an observable (arXiv:0804.0945).

    .. math:: \nu = \frac{n\beta}{2}\, \frac1m \sum_{i=1}^m \mathrm{Var}_w[\ell_i(w)]

    over the draws of all chains. In a regular model that holds the true distribution it is half the number of sampled
    weights, as is the learning coefficient; in a singular one both are smaller, and need not be equal.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    observable : str
        Whose losses to take; its rows should be drawn from the distribution that was trained on.

    Returns
    -------
    xarray.Dataset
        ``singular_fluctuation(restriction)``.

    Raises
    ------
    BrokenChainsError
        If a chain did not finish.
    InvalidInputError
        If the run has no such observable.
    """
    if (tree["status/state"] != "finished").any():
        raise BrokenChainsError(
            "`singular_fluctuation` is a mean over all chains, and some of this run did not finish."
        )
    names = list(tree["observables"].children)
    if observable not in names:
        raise InvalidInputError(f"`observable` (={observable!r}) must be one of {', '.join(map(repr, names))}.")
    loss = tree[f"observables/{observable}/loss"]
    each = loss if "position" not in loss.dims else loss.sum("position")
    variance = each.var(["chain", "draw"], ddof=1).mean("sequence")
    n_beta = json.loads(tree.attrs["config"])["n_beta"]
    return xr.Dataset({"singular_fluctuation": n_beta / 2 * variance})


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analysis."""
    return [Analysis("singular_fluctuation", singular_fluctuation, ("observables/*/loss", "status/state"))]
