"""The virial is recorded at draws, and is what integration by parts says it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp import sample
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.temperature import temperature
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.sampling.chains import virial as virials
from devinterp.sampling.chains.virial import virial
from devinterp.types import StepInputs, Target
from support.layouts import IN_BOX, paths_of_schema
from support.many_chains import many_chains
from support.small_models import ids, make, run, same_numbers

H = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
N_BETA, GAMMA = 20.0, 10.0


class Coordinates(nn.Module):
    """Six weights, in two tensors, away from the minimum of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.full((2,), 0.2)), nn.Parameter(torch.full((4,), -0.1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first, self.second]) + x


def quadratic(model: nn.Module, batch: Any) -> Tensor:
    """Return a loss of each row, whose gradients differ between rows by the rows themselves."""
    (x,) = batch
    w = model(torch.zeros(()))
    return 0.5 * (torch.tensor(H) * w**2).sum() + x @ w


def quartic(model: nn.Module, batch: Any) -> Tensor:
    (x,) = batch
    return (model(torch.zeros(())) ** 4).sum() + 0 * x[:, 0]


DATA = (torch.zeros(2, 6),)


def sampled(loss: Any = quadratic, data: Any = DATA, **changes: Any) -> xr.DataTree:
    return many_chains(Coordinates(), data, loss, **{"lr": 1e-2, "n_beta": N_BETA, "localization": GAMMA, **changes})


def assert_is(result: xr.Dataset, expected: float, name: str = "temperature", errors: float = 4.0) -> None:
    """Assert that a number is what it should be, to within so many standard errors, and that these are small."""
    error = float(result[f"{name}_se"])
    assert error < 0.05
    assert abs(float(result[name]) - expected) < errors * error


def curvature(weight_decay: float = 0.0) -> np.ndarray:
    return N_BETA * np.array(H) + GAMMA + weight_decay


KERNELS: dict[str, Any] = {
    # Kernel, its options and step, and the factor by which the variance in a direction is too large, of x = lr a.
    "sgld": ("sgld", {}, 1e-2, lambda x: 1 / (1 - x / 4)),
    "sghmc": ("sghmc", {"friction": 0.2}, 1e-2, lambda x: 1 / (1 - x / 4 / 1.8)),
    "leimkuhler_matthews": ("leimkuhler_matthews", {}, 1e-2, np.ones_like),
    "baoab": ("baoab", {}, 1e-2, np.ones_like),
    "rmsprop_leimkuhler_matthews": ("rmsprop_leimkuhler_matthews", {}, 2e-3, np.ones_like),
    "rmsprop_baoab": ("rmsprop_baoab", {}, 2e-3, np.ones_like),
    # With so large an eps the preconditioner is 1 / eps and does not change.
    "rmsprop_sgld": ("rmsprop_sgld", {"eps": 1e4}, 1e2, lambda x: 1 / (1 - x / 4e4)),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("sgld", "baoab", "rmsprop_sgld") else pytest.param(name, marks=pytest.mark.slow)
        for name in KERNELS
    ],
)
def test_of_a_quadratic_it_is_what_the_law_of_the_kernel_says(name: str) -> None:
    kernel, options, lr, factor = KERNELS[name]
    tree = sampled(lr=lr, sampling_method=kernel, sampling_method_kwargs=options)
    assert_is(temperature(tree), float(factor(lr * curvature()).mean()))


def test_a_thermostat_holds_it_at_one() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(400))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return 0.5 * (model.weights**2).sum() + 0 * batch[0]

    settings = {
        "lr": 3e-3,
        "n_beta": N_BETA,
        "localization": GAMMA,
        "num_burnin_steps": 400,
        "num_draws": 60,
        "num_chains": 16,
    }
    tree = sample(
        Many(), (torch.zeros(2),), loss_fn=loss, batch_size=2, sampling_method="sgnht", chains="vectorized", **settings
    )
    assert_is(temperature(tree), 1.0)


def test_weight_decay_and_a_start_away_from_the_minimum() -> None:
    decay = 30.0
    tree = sampled(llc_weight_decay=decay, lr=1e-2)
    assert_is(temperature(tree), float((1 / (1 - 1e-2 * curvature(decay) / 4)).mean()))


def test_without_localization_on_a_degenerate_loss() -> None:
    # The mean square of the weights does not change: E[(w - w0) . grad U] = d + (lr / 4) E|grad U|^2, whatever the loss.
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.weights

    settings = {"lr": 5e-3, "n_beta": 100.0, "num_burnin_steps": 250, "num_draws": 400, "num_chains": 48}
    tree = sample(
        Zero(), DATA, loss_fn=quartic, batch_size=2, chains="vectorized", save_metrics=["unscaled_grad"], **settings
    )
    result = temperature(tree)
    slopes = (tree["metrics/unscaled_grad"].isel(step=tree["draw_step"]).astype(np.float64) / (5e-3 / 2)) ** 2
    expected = 1 + 5e-3 / 4 * float(slopes.mean()) / 8
    assert expected > 1.01
    assert_is(result, expected)
    np.testing.assert_allclose(result["degeneracy"], 2.0, rtol=1e-5)


@pytest.mark.heavy
def test_minibatch_noise_heats() -> None:
    rows, size, lr = torch.randn(512, 6, generator=torch.Generator().manual_seed(0)), 2, 1e-2
    rows -= rows.mean(0)
    tree = sampled(data=(rows,), lr=lr, match_sampling_input_ids_across_chains=False)
    variances = N_BETA**2 * rows.var(0).numpy() / size * (1 - size / len(rows))
    expected = (1 + lr * variances / 4) / (1 - lr * curvature() / 4)
    assert float(expected.mean()) > 1.3
    assert_is(temperature(tree), float(expected.mean()))


@pytest.mark.heavy
def test_the_temperature_of_each_parameter() -> None:
    result = temperature(sampled(lr=1e-2))
    factors = 1 / (1 - 1e-2 * curvature() / 4)
    expected = [factors[:2].mean(), factors[2:].mean()]
    error = result["parameter_temperature_se"]
    assert (abs(result["parameter_temperature"] - expected) < 4 * error).all()
    assert (error < 0.05).all()
    assert abs(expected[0] - expected[1]) > 5 * float(error.max())


@pytest.mark.heavy
def test_restrictions_have_their_own() -> None:
    masks = {"whole": None, "part": {"second": torch.tensor([False, True, True, False])}}
    tree = sampled(weight_restrictions=masks)
    assert tree["metrics/parameter_size"].to_numpy().tolist() == [[2, 4], [0, 2]]
    assert np.isnan(tree["metrics/parameter_virial"][1, :, :, 0]).all()
    result = temperature(tree)
    factors = 1 / (1 - 1e-2 * curvature() / 4)
    assert_is(result.sel(restriction="whole"), float(factors.mean()))
    assert_is(result.sel(restriction="part"), float(factors[3:5].mean()))
    parts = result["parameter_temperature"].sel(restriction="part")
    assert np.isnan(parts[0])
    np.testing.assert_allclose(parts[1], result["temperature"].sel(restriction="part"), rtol=1e-6)


def law_in_a_box(curvature: float, lr: float, size: float, num: int = 401) -> tuple[float, float]:
    """Return E[field * grad U] and E[div field] of a coordinate of SGLD that is clamped to a box, by quadrature.

    The stationary law has a density inside the box and a mass on each wall.
    """
    edges = np.linspace(-size, size, num)
    centres = np.concatenate([[-size], (edges[1:] + edges[:-1]) / 2, [size]])
    upper = np.concatenate([edges, [math.inf]])
    cdf = np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))
    reached = cdf((upper[None] - (1 - lr * curvature / 2) * centres[:, None]) / math.sqrt(lr))
    transition = np.diff(reached, prepend=0, axis=1)
    weights = np.linalg.matrix_power(transition, 2**14)[len(centres) // 2]
    weights /= weights.sum()
    u = (centres / size) ** 2
    return float(weights @ (centres * (1 - u) ** 2 * curvature * centres)), float(weights @ ((1 - u) * (1 - 5 * u)))


@pytest.mark.heavy
@pytest.mark.parametrize("size", [0.2, pytest.param(0.4, marks=pytest.mark.slow)])
def test_in_a_box(size: float) -> None:
    class Zero(Coordinates):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.first.zero_()
                self.second.zero_()

    lr = 1e-3
    settings = {"n_beta": N_BETA, "localization": GAMMA, "num_burnin_steps": 100, "num_draws": 400, "num_chains": 64}
    tree = sample(
        Zero(), DATA, loss_fn=quadratic, batch_size=2, lr=lr, bounding_box_size=size, chains="vectorized", **settings
    )
    virials, volumes = np.array([law_in_a_box(float(a), lr, size) for a in curvature()]).T
    exact = virials.sum() / volumes.sum()
    result = temperature(tree)
    assert abs(float(result["temperature"]) - exact) < 4 * float(result["temperature_se"])
    assert abs(exact - 1) < 0.03
    # Of a field that does not vanish on the walls it would not be one.
    plain = N_BETA * tree["metrics/virial_gradient"] + GAMMA * tree["metrics/virial_square"]
    assert float(plain.mean()) / 6 < 0.85


def test_a_run_in_a_box_has_more_paths() -> None:
    assert paths_of_schema(run(bounding_box_size=0.1)) >= IN_BOX
    assert not paths_of_schema(run()) & IN_BOX


def test_noise_of_another_level_has_another_temperature() -> None:
    result = temperature(sampled(noise_level=0.5))
    assert result.attrs["expected"] == 0.25
    assert_is(result, 0.25 * float((1 / (1 - 1e-2 * curvature() / 4)).mean()))


def test_a_short_burnin_is_cold_where_rhat_sees_nothing() -> None:
    # Chains start at w0 and have not had the time to spread along flat directions.
    tree = sampled(lr=1e-3, num_burnin_steps=10, num_draws=60, localization=1.0, num_chains=8)
    result = temperature(tree)
    upper = float(confidence_interval(result, "temperature")["upper"])
    assert upper < 0.8
    assert result["window_temperature"][0] < result["window_temperature"][-1]


def test_errors_of_windows_and_chains() -> None:
    tree = sampled(num_draws=21)
    result = temperature(tree, windows=3)
    assert result.sizes["window"] == 3
    np.testing.assert_allclose(result["window_temperature"].mean(), result["temperature"], rtol=1e-6)
    np.testing.assert_allclose(result["temperature_per_chain"].mean(), result["temperature"], rtol=1e-6)
    with pytest.raises(InvalidInputError, match="windows"):
        temperature(tree, windows=0)
    assert temperature(tree, windows=30).sizes["window"] == 21


def test_it_is_what_it_says_at_every_draw() -> None:
    metrics = ["distance"]
    options = {"num_burnin_steps": 3, "num_steps_bw_draws": 2, "save_metrics": metrics}
    tree = run(observables={"watched": ids()}, num_draws=5, **options)
    steps = tree["draw_step"].to_numpy()
    distance = tree["metrics/distance"].to_numpy()
    np.testing.assert_allclose(tree["metrics/virial_square"], distance[..., steps] ** 2, rtol=1e-5)
    np.testing.assert_allclose(tree["metrics/draw_square"], distance[..., steps + 1] ** 2, rtol=1e-5)
    whole = tree["metrics/virial"]
    np.testing.assert_allclose(tree["metrics/parameter_virial"].sum("parameter"), whole, rtol=1e-5)
    parts = 20.0 * tree["metrics/virial_gradient"] + 5.0 * tree["metrics/virial_square"]
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-4)
    assert (whole > 0).all()


@pytest.mark.parametrize("box", [None, 0.7])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_small_parameters_together_are_what_they_are_one_by_one(
    box: float | None, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (), (2, 3, 2)]
    values, gradients = ([torch.randn(2, *shape, generator=generator) for shape in shapes] for _ in range(2))
    initial = [torch.randn(1, *shape, generator=generator) for shape in shapes]
    step, target = StepInputs(values, gradients, initial, {}, []), Target(3.0, 2.0, decay)
    together = virial(step, target, box)
    monkeypatch.setattr(virials, "_MAX_JOINED", 0)
    one_by_one = virial(step, target, box)
    for name in ("total", "gradient", "square", "volume"):
        found, expected = getattr(together, name), getattr(one_by_one, name)
        assert (found is None) == (expected is None) == (name == "volume" and box is None)
        if found is not None:
            assert found.shape == (2, len(shapes))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("watched", [False, True])
def test_it_does_not_depend_on_how_chains_run(watched: bool, tmp_path: Path) -> None:
    observables = {"watched": ids()} if watched else None
    options: dict[str, Any] = {"num_burnin_steps": 3, "num_steps_bw_draws": 2, "observables": observables}
    whole = run(num_draws=9, **options)
    same_numbers(run(num_draws=9, **options, workers=2), whole)
    run(num_draws=4, **options, output_path=tmp_path / "run.zarr")
    same_numbers(run(num_draws=9, **options, output_path=tmp_path / "run.zarr").load(), whole)
    vectorized = run(num_draws=9, **{**options, "chains": "vectorized"})
    for name in whole["metrics"].data_vars:
        np.testing.assert_allclose(vectorized[f"metrics/{name}"], whole[f"metrics/{name}"], rtol=2e-3, atol=1e-4)


def test_more_restrictions_have_more_parameters(tmp_path: Path) -> None:
    masks = {"mix": {"mix.weight": torch.ones(6, 6, dtype=torch.bool)}}
    more = {**masks, "head": {"head.bias": torch.ones(23, dtype=torch.bool)}, "full": None}
    path = tmp_path / "run.zarr"
    run(weight_restrictions=masks, output_path=path, paired=True)
    tree = run(weight_restrictions=more, output_path=path, paired=True).load()
    same_numbers(tree, run(weight_restrictions=more, paired=True))
    assert tree["metrics/parameter"].to_numpy().tolist()[:2] == ["mix.weight", "head.bias"]


def test_it_can_be_left_out() -> None:
    tree = run(virial=False)
    assert "metrics" not in tree.children
    with pytest.raises(MissingDataError, match="metrics/virial"):
        tree.slt.temperature()


def test_a_diverging_chain_keeps_what_it_had() -> None:
    with pytest.warns(match="diverged"):
        tree = run(make(), lr=1e6, num_draws=30, num_chains=1)
    done = int(tree["status/steps_done"][0, 0])
    assert 0 < done < 30
    known = np.isfinite(tree["metrics/virial"][0, 0])
    assert known.to_numpy().tolist() == [True] * done + [False] * (30 - done)
