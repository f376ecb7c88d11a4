"""The temperature along the directions in which the loss curves most: they are found, and it is what the laws say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import devinterp
from devinterp.analyses.diagnosis import diagnose
from devinterp.analyses.temperature import temperature
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.checkpointing import TimeBudget
from devinterp.sampling.chains.stiff_directions import NUM_GRADIENTS
from support.many_chains import many_chains
from support.small_models import ids, run, same_numbers
from support.small_runs import Ended, counting, crash
from support.small_runs import run as stored_run

H = (0.0, -1.0, 1.0, 2.0, 4.0, 8.0)
N_BETA, GAMMA = 20.0, 30.0
TURNED = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
HESSIAN = (TURNED @ torch.diag(torch.tensor(H, dtype=torch.float64)) @ TURNED.T).float()


class Coordinates(nn.Module):
    """Weights in two tensors."""

    def __init__(self, first: int = 2, second: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(first)), nn.Parameter(torch.zeros(second))

    def forward(self) -> Tensor:
        return torch.cat([self.first, self.second])


def quadratic(model: nn.Module, batch: Any) -> Tensor:
    """Return losses with a Hessian whose eigenvectors are no axes, and gradients that differ between rows by the rows."""
    (x,) = batch
    w = model()
    return 0.5 * w @ HESSIAN @ w + x @ w


def sampled(loss: Any = quadratic, model: nn.Module | None = None, data: Any = None, **changes: Any) -> xr.DataTree:
    settings = {"lr": 5e-3, "n_beta": N_BETA, "localization": GAMMA, "curvature_directions": 3, **changes}
    return many_chains(model or Coordinates(), (torch.zeros(2, 6),) if data is None else data, loss, **settings)


def assert_is(result: xr.Dataset, expected: Any, errors: float = 4.0) -> None:
    error = result["direction_temperature_se"]
    assert (error < 0.1).all()
    assert (abs(result["direction_temperature"] - np.asarray(expected)) < errors * error).all()


KERNELS: dict[str, Any] = {
    "sgld": ({}, 5e-3, lambda x: 1 / (1 - x / 4)),
    "sghmc": ({"friction": 0.2}, 5e-3, lambda x: 1 / (1 - x / 4 / 1.8)),
    "leimkuhler_matthews": ({}, 5e-3, np.ones_like),
    "baoab": ({}, 5e-3, np.ones_like),
    "rmsprop_baoab": ({}, 2e-3, np.ones_like),
}


@pytest.mark.parametrize(
    "kernel",
    [name if name in ("sgld", "rmsprop_baoab") else pytest.param(name, marks=pytest.mark.slow) for name in KERNELS],
)
def test_they_are_eigenvectors_and_each_has_the_temperature_of_its_law(kernel: str) -> None:
    options, lr, factor = KERNELS[kernel]
    result = temperature(sampled(lr=lr, sampling_method=kernel, sampling_method_kwargs=options))
    stiffness = np.array([8.0, 4.0, 2.0])
    np.testing.assert_allclose(result["direction_curvature"], stiffness, rtol=1e-3)
    assert_is(result, factor(lr * (N_BETA * stiffness + GAMMA)))


@pytest.mark.heavy
def test_minibatch_noise_heats_directions_by_what_it_is_in_them() -> None:
    noise = 0.5 * torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean(0)
    lr = 1e-3
    tree = sampled(data=(noise,), lr=lr, match_sampling_input_ids_across_chains=False, num_draws=600)
    stiffness, turned = np.array([8.0, 4.0, 2.0]), noise.double() @ TURNED.flip(1)[:, :3]
    added = lr / 4 * N_BETA**2 * turned.var(0).numpy() / 2
    assert_is(temperature(tree), (1 + added) / (1 - lr * (N_BETA * stiffness + GAMMA) / 4), errors=5.0)


@pytest.mark.heavy
def test_of_a_degenerate_loss_it_is_one() -> None:
    def quartic(model: nn.Module, batch: Any) -> Tensor:
        return ((model() + 0.1) ** 4).sum() + 0 * batch[0][:, 0]

    # With weight decay, which is a force towards zero and not towards w0.
    model = Coordinates()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.2)
    tree = sampled(
        quartic,
        model,
        lr=5e-4,
        num_burnin_steps=1000,
        num_draws=1000,
        sampling_method="baoab",
        llc_weight_decay=20.0,
    )
    assert_is(temperature(tree), 1.0)


@pytest.mark.heavy
def test_negative_and_missing_curvature() -> None:
    tree = sampled(curvature_directions=6, lr=1e-3, num_draws=4)
    stiffness = tree["metrics/direction_curvature"].to_numpy()[0]
    np.testing.assert_allclose(stiffness, [8, 4, 2, 1, -1, 0] if stiffness[3] > 0 else [8, 4, 2, -1, 1, 0], atol=0.3)

    def flat(model: nn.Module, batch: Any) -> Tensor:
        return 0 * model().sum() + 0 * batch[0][:, 0]

    result = temperature(sampled(flat, sampling_method="baoab"))
    np.testing.assert_array_equal(result["direction_curvature"], 0.0)
    assert_is(result, 1.0)


@pytest.mark.parametrize("chains", ["vectorized", "sequential"])
def test_each_restriction_has_its_own(chains: str) -> None:
    masks = {"first": {"first": torch.ones(2, dtype=torch.bool)}, "second": {"second": torch.ones(4, dtype=torch.bool)}}
    tree = sampled(weight_restrictions=masks, num_chains=3, num_draws=6, chains=chains)
    found = tree["metrics/direction_curvature"].to_numpy()
    for row, block in zip(found, (HESSIAN[:2, :2], HESSIAN[2:, 2:]), strict=True):
        exact = torch.linalg.eigvalsh(block).flip(0)
        exact = exact[exact.abs().argsort(descending=True)][:3].numpy()
        np.testing.assert_allclose(row[: len(exact)], exact, rtol=0.05)
    assert np.isnan(found[0, 2])
    virial = tree["metrics/direction_virial"]
    assert np.isnan(virial[0, ..., 2]).all()
    assert np.isfinite(virial[0, ..., :2]).all()
    assert np.isfinite(virial[1]).all()
    result = temperature(tree)
    assert np.isnan(result["direction_temperature"][0, 2])
    assert tree.slt.diagnose() is not None


def test_alike_restrictions_side_by_side_are_as_one_after_the_other() -> None:
    masks = {
        name: {"second": torch.tensor(kept)}
        for name, kept in (("a", [True, True, False, False]), ("b", [False, True, False, True]))
    }
    settings: dict[str, Any] = {
        "weight_restrictions": masks,
        "num_chains": 2,
        "num_draws": 6,
        "curvature_directions": 2,
    }
    together, apart = (sampled(**settings, chains=chains) for chains in ("vectorized", "sequential"))
    for name in ("direction_virial", "direction_curvature"):
        np.testing.assert_allclose(together[f"metrics/{name}"], apart[f"metrics/{name}"], rtol=1e-3, atol=1e-5)


@pytest.mark.heavy
def test_a_stiff_direction_that_is_too_hot_is_found_among_many_flat_ones() -> None:
    def stiff(model: nn.Module, batch: Any) -> Tensor:
        return 0.5 * 100 * model().mean() ** 2 * 400 + 0 * batch[0]

    settings: dict[str, Any] = {
        "data": (torch.zeros(2),),
        "model": Coordinates(100, 300),
        "localization": 10.0,
        "num_chains": 4,
    }
    settings |= {"num_burnin_steps": 600, "num_draws": 400, "lr": 1e-3, "num_steps_bw_draws": 1}
    hot, cool = (sampled(stiff, **settings, **change) for change in ({}, {"sampling_method": "baoab"}))
    result = temperature(hot)
    assert_is(result.isel(direction=[0]), 1 / (1 - 1e-3 * (N_BETA * 100 + 10) / 4))
    assert abs(float(result["temperature"]) - 1) < 0.1
    [finding] = [message for message in diagnose(hot)["message"].to_numpy() if "second derivative 100" in message]
    assert finding.startswith("the temperature of a direction of second derivative 100 is ")
    assert not [message for message in diagnose(cool)["message"].to_numpy() if "second derivative 100" in message]


@pytest.mark.heavy
def test_it_does_not_depend_on_how_chains_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"curvature_directions": 2, "num_burnin_steps": 3, "observables": {"watched": ids()}}
    masks = {"mix": {"mix.weight": torch.ones(6, 6, dtype=torch.bool)}}
    more = {**masks, "full": None}
    whole = run(num_draws=9, weight_restrictions=more, **options)
    assert whole["metrics/direction_virial"].shape == (2, *whole["metrics/virial"].shape[1:], 2)
    assert np.isfinite(whole["metrics/direction_virial"]).all()
    same_numbers(run(num_draws=9, weight_restrictions=more, **options, workers=2), whole)
    path = tmp_path / "run.zarr"
    run(num_draws=4, weight_restrictions=masks, **options, output_path=path)
    # What a store was made with stays, whatever is asked for later.
    options["curvature_directions"] = 0
    same_numbers(run(num_draws=9, weight_restrictions=more, **options, output_path=path).load(), whole)
    without = run(num_draws=9, weight_restrictions=more, **options)
    assert "direction_virial" not in without["metrics"].data_vars
    same_numbers(without, whole.filter(lambda node: True).map_over_datasets(_without_directions))


def _without_directions(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars([str(name) for name in dataset.variables if str(name).startswith("direction")])


@pytest.mark.heavy
def test_crashes_at_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimeBudget, "is_due", lambda self, *, last: True)
    settings: dict[str, Any] = {"num_draws": 8, "curvature_directions": 1}
    whole, path, ended, after = stored_run(**settings), tmp_path / "run.zarr", 0, 12
    while True:
        try:
            stored_run(path, counting(after, crash), **settings)
            break
        except Ended:
            ended, after = ended + 1, after + 50
    assert ended >= 2
    same_numbers(whole, devinterp.open(path).load())


def test_what_it_costs_is_said() -> None:
    plain, more = (run(dry_run=True, curvature_directions=num) for num in (0, 2))
    assert more.gradients - plain.gradients == 2 * NUM_GRADIENTS
    assert {"metrics/direction_virial", "metrics/direction_curvature"} <= set(more.arrays) - set(plain.arrays)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="`curvature_directions` .*bounding box"):
        run(curvature_directions=2, bounding_box_size=0.1)
    with pytest.raises(InvalidInputError, match="`curvature_directions` .*`virial`"):
        run(curvature_directions=2, virial=False)
    with pytest.raises(InvalidInputError, match="`curvature_directions` .*at least 0"):
        run(curvature_directions=-1)

    class Away(Coordinates):
        def forward(self) -> Tensor:
            return super().forward() * 1e30

    def huge(model: nn.Module, batch: Any) -> Tensor:
        return (model() ** 2).sum() + 0 * batch[0]

    with pytest.raises(InvalidInputError, match="not finite"):
        sampled(huge, Away(), (torch.zeros(2),))
