"""The same code on a real cluster of two worker processes."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree

distributed = pytest.importorskip("distributed")

ANALYSES = {
    "llc": compute_llc,
    "token_llc": lambda tree: token_llc(tree, "code"),
    "sequence": lambda tree: compute_bif(tree, "sequence"),
    "averaged": lambda tree: compute_bif(tree, average_tokenwise_bif=True),
    "token": lambda tree: compute_bif(tree, queries="train", candidates="code"),
    "strongest": lambda tree: compute_bif(tree, queries={"train": slice(0, 3)}, top_k=5),
    "susceptibilities": lambda tree: compute_susceptibilities(tree, "train"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "run.zarr"
    chunks = {"restriction": 1, "chain": 1, "draw": 25, "sequence": 8, "step": 50}
    observables = {"train": (24, 17), "code": (40, 17)}
    tree = synthetic_tree(num_restrictions=2, num_draws=100, observables=observables, chunks=chunks)
    tree.to_zarr(path, consolidated=False)
    return path


@pytest.fixture
def client():
    # Free ports (None would mean 8787 for each), and processes of their own, because that is what a cluster is.
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0", "protocol": "tcp"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as connected:
        yield connected


def _open(path):
    return xr.open_datatree(path, engine="zarr", chunks={}, consolidated=False)


def _tree(result):
    return xr.DataTree(result) if isinstance(result, xr.Dataset) else result


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning")]


def test_results_are_the_same(store, client):
    assert len(client.scheduler_info()["workers"]) == 2
    for name, analyse in ANALYSES.items():
        expected = _tree(analyse(_open(store).load()))
        result = _tree(analyse(_open(store)))
        computed = result.compute()
        for node in expected.subtree:
            for variable in node.data_vars:
                values, wanted = computed[node.path][variable].to_numpy(), node[variable].to_numpy()
                np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{name}: {variable}")


def test_building_an_analysis_gathers_nothing(store, client):
    tree = _open(store)
    gathered = []
    original = client.gather

    def gather(futures, *args, **kwargs):
        values = original(futures, *args, **kwargs)
        gathered.append(
            sum(getattr(np.asarray(v), "nbytes", 0) for v in (values if isinstance(values, list) else [values]))
        )
        return values

    client.gather = gather
    for analyse in ANALYSES.values():
        analyse(tree)
    # Only the chains' states, the steps of draws and the like come to the client: no losses.
    assert gathered
    assert max(gathered) < 10_000
    assert tree["observables/code/loss"].nbytes > 2_000_000


def test_results_go_from_workers_to_the_store(store, client, tmp_path):
    result = compute_bif(_open(store), queries="code", candidates="train")
    gathered = []
    original = client.gather
    client.gather = lambda futures, *a, **k: gathered.append(original(futures, *a, **k)) or gathered[-1]
    result[["influences"]].to_zarr(tmp_path / "bif.zarr", consolidated=False)
    assert gathered
    size = sum(
        np.asarray(v).nbytes
        for values in gathered
        for v in (values if isinstance(values, list) else [values])
        if v is not None
    )
    assert size < result["influences"].nbytes / 100
    expected = compute_bif(_open(store).load(), queries="code", candidates="train")["influences"]
    again = xr.open_zarr(tmp_path / "bif.zarr", consolidated=False)["influences"]
    np.testing.assert_allclose(again.load(scheduler="threads"), expected, atol=1e-6)


def test_a_worker_killed_in_the_middle_changes_nothing(store, client):
    expected = compute_bif(_open(store).load(), "token")["influences"]
    pids = client.run(os.getpid)
    future = client.compute(_slow(compute_bif(_open(store), "token")["influences"].data))
    deadline = time.monotonic() + 60
    while not client.processing() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert future.status == "pending"
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    np.testing.assert_allclose(future.result(timeout=120), expected, atol=1e-6)


def _wait(block):
    time.sleep(0.02)
    return block


def _slow(array):
    """Make every block take a moment, so that the kill comes in the middle."""
    return array.map_blocks(_wait, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype))
