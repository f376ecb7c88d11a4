"""Results do not depend on chunks, laziness, scheduler, or the order of observables and chains."""

from __future__ import annotations

import dask
import numpy as np
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree

_SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ANALYSES = {
    "llc": compute_llc,
    "token_llc": lambda tree: token_llc(tree, "b"),
    "token": compute_bif,
    "chain means": lambda tree: compute_bif(tree, reduce_chain_dimension_method="mean", compute_covariance=True),
    "averaged": lambda tree: compute_bif(tree, average_tokenwise_bif=True),
    "sequence": lambda tree: compute_bif(tree, "sequence", detrend=True),
    "strongest": lambda tree: compute_bif(tree, queries="a", top_k=4),
    "susceptibilities": lambda tree: compute_susceptibilities(tree, "a", z_score=True),
}

shapes = st.fixed_dictionaries(
    {
        "num_restrictions": st.integers(1, 3),
        "num_chains": st.integers(2, 4),
        "num_draws": st.integers(8, 24),
        "num_burnin_steps": st.integers(0, 5),
        "batch_size": st.integers(1, 3),
        "ragged": st.booleans(),
        "drift": st.sampled_from([0.0, 0.2]),
        "seed": st.integers(0, 1000),
        "observables": st.fixed_dictionaries(
            {name: st.tuples(st.integers(2, 7), st.integers(2, 8)) for name in ("a", "b")},
            optional={"c": st.tuples(st.integers(1, 5), st.integers(2, 8))},
        ),
    }
)
chunkings = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(1, 25) for name in ("restriction", "chain", "draw", "step", "sequence", "position", "batch")
    },
)


def _tree(result):
    return xr.DataTree(result) if isinstance(result, xr.Dataset) else result


def _assert_close(result, expected, name):
    for node in _tree(expected).subtree:
        for variable in node.data_vars:
            values, wanted = _tree(result)[node.path][variable].to_numpy(), node[variable].to_numpy()
            if wanted.dtype.kind != "f":
                np.testing.assert_array_equal(values, wanted, err_msg=f"{name}: {variable}")
                continue
            scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
            # A ratio of two small numbers is no better than the rounding of either.
            rtol, atol = (1e-3, 1e-3) if variable == "drift_share" else (1e-5, 1e-5 * scale)
            np.testing.assert_allclose(values, wanted, rtol=rtol, atol=atol, err_msg=f"{name}: {variable}")


@_SETTINGS
@given(
    options=shapes,
    chunks=chunkings,
    name=st.sampled_from(list(ANALYSES)),
    scheduler=st.sampled_from(["threads", "sync"]),
)
def test_chunks_and_scheduler(options, chunks, name, scheduler):
    expected = ANALYSES[name](synthetic_tree(**options))
    with dask.config.set(scheduler=scheduler):
        result = ANALYSES[name](synthetic_tree(**options, chunks=chunks)).compute()
    _assert_close(result, expected, name)


@_SETTINGS
@given(options=shapes, name=st.sampled_from(list(ANALYSES)), data=st.data())
def test_order_of_observables(options, name, data):
    tree = synthetic_tree(**options)
    order = data.draw(st.permutations(list(tree["observables"].children)))
    shuffled = synthetic_tree(**options)
    shuffled["observables"] = xr.DataTree.from_dict(
        {n: tree[f"observables/{n}"].to_dataset(inherit=False) for n in order}
    )
    expected, result = ANALYSES[name](tree), ANALYSES[name](shuffled)
    if name == "llc":
        result = result.sel(observable=expected["observable"])
    _assert_close(result, expected, name)


@_SETTINGS
@given(options=shapes, name=st.sampled_from(list(ANALYSES)), data=st.data())
def test_order_of_chains(options, name, data):
    tree = synthetic_tree(**options)
    order = data.draw(st.permutations(range(options["num_chains"])))
    expected, result = ANALYSES[name](tree), ANALYSES[name](tree.isel(chain=order, missing_dims="ignore"))
    if name == "llc":
        inverse = np.argsort(order)
        result = result.isel(chain=inverse)
    _assert_close(result, expected, name)
