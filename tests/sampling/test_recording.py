"""What is recorded instead of all losses answers the same questions with the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.sampling.chains.reductions import Moments
from devinterp.sampling.settings import Settings
from devinterp.slt.sampling import sample
from devinterp.types import Draw

RECORDS = ("token", "sequence", "moments")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.DataTree]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(23, 8), nn.Linear(8, 23)).eval()
    data = torch.randint(23, (64, 13))
    folder = tmp_path_factory.mktemp("records")
    return {
        record: sample(
            model,
            data,
            {"a": (data, 2), "b": (data, 1)},
            lr=1e-3,
            n_beta=10.0,
            num_chains=2,
            num_draws=40,
            num_burnin_steps=5,
            batch_size=8,
            weight_restrictions={"full": None, "embedding": {"0.weight": None}},
            output_path=folder / f"{record}.zarr",
            record=record,
        )
        for record in RECORDS
    }


def assert_same(found: xr.Dataset, expected: xr.Dataset, tolerance: float = 1e-6) -> None:
    assert set(found.data_vars) == set(expected.data_vars)
    for name in found.data_vars:
        if "rhat" in str(name):
            # A function of ranks: it jumps when rounding swaps two draws.
            np.testing.assert_allclose(found[name], expected[name], atol=1e-2)
        elif found[name].dtype.kind == "f":
            size = float(abs(expected[name]).max())
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance * size, err_msg=str(name))
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


@pytest.mark.parametrize("record", ["sequence", "moments"])
def test_llc_is_the_same(trees: dict[str, xr.DataTree], record: str) -> None:
    expected = compute_llc(trees["token"])
    found = compute_llc(trees[record])
    # Means of sequences are rounded to float32 when they are stored; moments are not.
    assert_same(found, expected, tolerance=1e-6 if record == "moments" else 1e-5)


@pytest.mark.parametrize("task", ["a", "b"])
@pytest.mark.parametrize("estimator", ["two_run", "single_run"])
def test_susceptibilities_are_the_same(trees: dict[str, xr.DataTree], task: str, estimator: str) -> None:
    options = {"include_sampling_task": True, "estimator": estimator}
    expected = compute_susceptibilities(trees["token"], task, **options)
    found = compute_susceptibilities(trees["moments"], task, **options)
    assert_same(found["labelled"].to_dataset(), expected["labelled"].to_dataset())


def test_learning_coefficients_of_tokens_are_the_same(trees: dict[str, xr.DataTree]) -> None:
    found, expected = (token_llc(trees[record], "a").llc for record in ("moments", "token"))
    np.testing.assert_allclose(found, expected, atol=1e-6 * float(abs(expected).max()))


def test_influences_between_sequences_are_the_same(trees: dict[str, xr.DataTree]) -> None:
    found, expected = (compute_bif(trees[record], "sequence").influences for record in ("sequence", "token"))
    # Means of float32 losses, rounded to float32 once more.
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_was_not_recorded_is_refused(trees: dict[str, xr.DataTree]) -> None:
    with pytest.raises(MissingDataError, match="observables"):
        compute_bif(trees["moments"], "sequence")
    with pytest.raises(MissingDataError, match="means of sequences"):
        token_llc(trees["sequence"], "a")
    for options in ({}, {"average_tokenwise_bif": True}):
        with pytest.raises(MissingDataError, match="means of sequences"):
            compute_bif(trees["sequence"], **options)
    with pytest.raises(InvalidInputError, match="moments"):
        compute_llc(trees["moments"], burnin=10)


@pytest.mark.heavy
def test_moments_need_a_hundredth_of_the_space(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(23, 4), nn.Linear(4, 23)).eval()
    data = torch.randint(23, (256, 129))
    sizes = {}
    for record in ("token", "moments"):
        path = tmp_path / f"{record}.zarr"
        sample(
            model,
            data,
            {"a": (data, 2)},
            lr=1e-3,
            n_beta=10.0,
            num_chains=2,
            num_draws=400,
            batch_size=32,
            output_path=path,
            record=record,
        )
        sizes[record] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert sizes["token"] >= 100 * sizes["moments"], sizes


def test_running_moments_survive_a_stop() -> None:
    generator = np.random.default_rng(0)
    settings = Settings(lr=1.0, n_beta=1.0, num_draws=6)

    def draw(n: int) -> Draw:
        observables = {name: generator.normal(size=(3, 4)).astype(np.float32) for name in ("a", "b")}
        return Draw(0, 0, n, np.zeros((1, 2, 4), np.float32), index=n, observables=observables)

    draws = [draw(n) for n in range(settings.num_steps)]
    whole, first, second = (Moments(settings.num_steps) for _ in range(3))
    expected = [whole.reduce(one) for one in draws][-1].summaries
    for one in draws[:3]:
        first.reduce(one)
    from devinterp.sampling.chains.loop import Start
    from devinterp.types import Checkpoint

    state = Checkpoint((0,), (0,), 3, first.save(((0, 0),)))
    start = second.resume(Start(checkpoint=state, steps_done=3))
    assert start.steps_done == 3
    assert not start.checkpoint.arrays
    found = [second.reduce(one) for one in draws[3:]][-1].summaries
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    losses = np.stack([one.observables["a"] for one in draws]).astype(float)
    np.testing.assert_allclose(found["observables/a/loss_mean"], losses.mean(0), rtol=1e-6)
    centred = losses - losses.mean(0)
    task = losses.mean((1, 2)) - losses.mean()
    expected_comoment = (task[:, None, None] * centred).mean(0)
    np.testing.assert_allclose(found["observables/a/loss_comoment"][0], expected_comoment, rtol=1e-5, atol=1e-8)


def test_half_precision_halves_the_losses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(23, 4), nn.Linear(4, 23)).eval()
    data = torch.randint(23, (64, 17))
    found = {
        dtype: sample(
            model,
            data,
            {"a": (data, 1)},
            lr=1e-3,
            n_beta=10.0,
            num_chains=2,
            num_draws=20,
            batch_size=8,
            loss_dtype=dtype,
        )
        for dtype in ("float32", "float16")
    }
    loss = {dtype: tree["observables/a/loss"] for dtype, tree in found.items()}
    assert loss["float16"].dtype == np.float16
    np.testing.assert_allclose(loss["float16"], loss["float32"], rtol=2**-11)
    llcs = [float(compute_llc(tree).llc_mean) for tree in found.values()]
    # Rounding is unbiased and far below the spread of the losses.
    assert llcs[1] == pytest.approx(llcs[0], abs=10.0 * 2**-11 * float(loss["float32"].mean()))


@pytest.mark.parametrize(("option", "value"), [("record", "losses"), ("loss_dtype", "int8")])
def test_unknown_words_are_refused(option: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=option):
        Settings(lr=1.0, n_beta=1.0, **{option: value})
