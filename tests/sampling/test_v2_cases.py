"""Same seed, same numbers: the thirteen sampling runs recorded from DevInterp 2.0.1."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from devinterp import sample
from devinterp.slt.llc import compute_llc, llc
from support.small_models import V2, ids, make

CASES = json.loads((V2 / "v2_cases.json").read_text())
NAMES = sorted(CASES["cases"])
OBSERVABLES = {"train": 2, "code": 3}


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(V2 / "v2_results.npz") as archive:
        return {name: archive[name] for name in archive.files}


def arguments(case: str) -> dict:
    """Return the arguments of a case; the file describes its masks in words."""
    found = {**CASES["base"], **CASES["cases"][case]}
    if "param_masks" in found:
        columns = torch.zeros(23, 6, dtype=torch.bool)
        columns[:, :3] = True
        found["param_masks"] = {"head.weight": columns, "mix.bias": torch.ones(6, dtype=torch.bool)}
    return found


@pytest.fixture(params=["sequential", "vectorized"])
def chains(request: pytest.FixtureRequest) -> str:
    """Return how chains are run: the numbers are the same either way."""
    return request.param


@cache
def ours(case: str, chains: str = "sequential") -> xr.DataTree:
    observables = {name: (ids(name), batches) for name, batches in OBSERVABLES.items()}
    # v2 measures no virial.
    return sample(model=make(), dataset=ids(), observables=observables, chains=chains, virial=False, **arguments(case))


def check(case: str, name: str, values: xr.DataArray, **drop: int) -> None:
    np.testing.assert_allclose(values.isel(drop), recorded()[f"{case}/{name}"], rtol=1e-5, atol=1e-7)


def test_there_are_thirteen():
    assert len(NAMES) == 13
    assert {name.split("/")[0] for name in recorded()} >= set(NAMES)


@pytest.mark.parametrize("case", NAMES)
def test_losses_along_the_chain(case, chains):
    tree = ours(case, chains)
    check(case, "sampling_loss_micro", tree["trace/loss"], restriction=0)
    micro = recorded()[f"{case}/sampling_input_ids_micro"]
    np.testing.assert_array_equal(ids()[tree["trace/sequence_id"].to_numpy()], micro)


@pytest.mark.parametrize("case", NAMES)
def test_minibatch_losses_at_draws_are_the_trace_before_the_update(case, chains):
    tree, accumulated = ours(case, chains), arguments(case).get("gradient_accumulation_steps", 1)
    at_draws = tree["trace/loss"].isel(restriction=0, step=tree["draw_step"].to_numpy()).to_numpy()
    chains, draws, batch, positions = at_draws.shape
    averaged = at_draws.reshape(chains, draws, accumulated, batch // accumulated, positions).mean(2)
    np.testing.assert_allclose(averaged, recorded()[f"{case}/sampling_loss"], rtol=1e-5)


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("name", OBSERVABLES)
def test_losses_of_observables(case, name, chains):
    node = ours(case, chains)[f"observables/{name}"]
    check(case, f"loss_{name}", node["loss"], restriction=0)
    np.testing.assert_array_equal(node["token_ids"], recorded()[f"{case}/input_ids_{name}"])
    np.testing.assert_array_equal(ids(name)[node["sequence_id"].to_numpy()], node["token_ids"])


@pytest.mark.parametrize("case", NAMES)
def test_initial_losses(case, chains):
    init_loss = ours(case, chains)["trace/init_loss"]
    check(case, "init_loss", init_loss, **({"restriction": 0} if "restriction" in init_loss.dims else {}))


def test_metrics(chains):
    tree = ours("sgld_metrics", chains)
    names = [path.removeprefix("sgld_metrics/metrics_") for path in recorded() if "/metrics_" in path]
    assert sorted(names) == sorted(tree["metrics"].data_vars)
    for name in names:
        values = recorded()[f"sgld_metrics/metrics_{name}"]
        # A dot product cancels: its rounding error is relative to the norms it is made of, not to itself.
        scale = np.abs(values).max() if name.startswith("dot_") else 0
        np.testing.assert_allclose(tree["metrics"][name][0], values, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_no_metrics_unless_asked():
    assert "metrics" not in ours("sgld").children


@pytest.mark.parametrize("case", [name for name in NAMES if "burnin" not in name])
def test_learning_coefficients(case, chains):
    found = compute_llc(ours(case, chains))
    if "w0_loss" in found:  # with noise on the starting weights v2 subtracts the loss there, which is not L(w0)
        assert case == "sgld_init_noise"
        shift = CASES["base"]["n_beta"] * (found["w0_loss"] - found["init_loss"])
        assert abs(shift) > 1e-3
        found = found.assign({name: found[name] + shift for name in ("llc_mean", "llc_per_chain")})
    for name in ("llc_mean", "llc_std", "llc_per_chain", "loss_trace", "init_loss"):
        # The coefficient is n_beta times a small difference of losses, which v2 averaged in float32: two units in the last
        # place of a loss are 1e-5 of it, and coefficients are 0.08 to 1.3.
        unit = np.spacing(np.float32(recorded()[f"{case}/llc/init_loss"]))
        tolerance = 2 * CASES["base"]["n_beta"] * unit if name.startswith("llc") else 0
        np.testing.assert_allclose(
            found[name], recorded()[f"{case}/llc/{name}"], rtol=1e-5, atol=tolerance, err_msg=name
        )


def test_one_call_gives_the_same_coefficient():
    found = llc(make(), ids(), **arguments("rmsprop"))
    np.testing.assert_allclose(found["llc_mean"], compute_llc(ours("rmsprop"))["llc_mean"], rtol=1e-6)


def test_burn_in_is_left_out_of_the_coefficient():
    case = "sgld_burnin_spacing"
    found, trace = compute_llc(ours(case)), recorded()[f"{case}/llc/loss_trace"]
    expected = 20.0 * (trace[:, 5:].mean() - recorded()[f"{case}/llc/init_loss"])
    np.testing.assert_allclose(found["llc_mean"], expected, rtol=1e-3)
    assert abs(float(found["llc_mean"]) - float(recorded()[f"{case}/llc/llc_mean"])) > 1e-3  # v2 averages it in
