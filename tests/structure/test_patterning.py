"""Weights of training samples: against the derivatives of a Gaussian posterior, and against a run with these weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import devinterp
from devinterp.errors import InvalidInputError
from devinterp_structure import patterning, predicted_change
from devinterp_structure.patterning import duplicates

N_BETA, LOCALIZATION = 40.0, 4.0
DIM, NUM_SAMPLES = 3, 12


def squared_error(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, outputs, weights = batch
    return weights * (model(inputs) - outputs).square().squeeze(1) / 2


def data(seed: int, num_samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, DIM, generator=generator)
    return inputs, torch.randn(num_samples, 1, generator=generator), torch.ones(num_samples)


TRAIN, NEAR, FAR = data(0, NUM_SAMPLES), data(1, NUM_SAMPLES), data(2, NUM_SAMPLES)


def optimum() -> nn.Linear:
    model = nn.Linear(DIM, 1, bias=False)
    solved = torch.linalg.lstsq(TRAIN[0], TRAIN[1]).solution
    model.weight.data.copy_(solved.T)
    return model


def run(weights: np.ndarray | None = None, **changed: Any) -> Any:
    train = TRAIN if weights is None else (*TRAIN[:2], torch.as_tensor(weights, dtype=torch.float32))
    settings = {
        "lr": 2e-2, "n_beta": N_BETA, "localization": LOCALIZATION, "num_chains": 8, "num_draws": 300, "init_seed": 0,
        "num_burnin_steps": 200, "num_steps_bw_draws": 4, "sampling_method": "baoab", "batch_size": NUM_SAMPLES,
        "chains": "vectorized", "loss_fn": squared_error, "progress": False, **changed,
    }  # fmt: skip
    return devinterp.sample(optimum(), train, {"train": (TRAIN, 1), "near": (NEAR, 1), "far": (FAR, 1)}, **settings)


def expected_losses(weights: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The mean losses of the two data sets over the posterior, which is Gaussian."""
    x, y = (each.double().numpy() for each in TRAIN[:2])
    start = optimum().weight.detach().double().numpy()[0]
    precision = N_BETA * (x.T * weights) @ x / NUM_SAMPLES + LOCALIZATION * np.eye(DIM)
    mean = np.linalg.solve(precision, N_BETA * (x.T * weights) @ y[:, 0] / NUM_SAMPLES + LOCALIZATION * start)
    covariance = temperature * np.linalg.inv(precision)
    losses = []
    for inputs, outputs, _ in (NEAR, FAR):
        a, b = inputs.double().numpy(), outputs.double().numpy()[:, 0]
        losses.append(np.mean((a @ mean - b) ** 2 + np.einsum("ni,ij,nj->n", a, covariance, a)) / 2)
    return np.array(losses)


def exact_derivatives(temperature: float = 1.0) -> np.ndarray:
    step, ones = 1e-5, np.ones(NUM_SAMPLES)
    moved = [
        expected_losses(ones + step * row, temperature) - expected_losses(ones - step * row, temperature)
        for row in np.eye(NUM_SAMPLES)
    ]
    return np.stack(moved, axis=1) / (2 * step)


@pytest.fixture(scope="module")
def tree() -> Any:
    return run()


@pytest.mark.heavy
@pytest.mark.parametrize("noise_level", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_derivatives_are_those_of_the_posterior(tree: Any, noise_level: float) -> None:
    tree = tree if noise_level == 1 else run(noise_level=noise_level)
    exact = exact_derivatives(noise_level**2)
    slopes = tree.slt.patterning({"near": 0.01, "far": 0.0}, candidates="train")["derivative"]
    assert slopes.dims == ("chain", "target", "candidate")
    error = slopes.std("chain", ddof=1) / np.sqrt(slopes.sizes["chain"])
    off = (slopes.mean("chain") - exact) / error
    assert float(abs(off).max()) < 5.5  # Student's t with 7 degrees of freedom, 24 numbers that share draws
    assert np.corrcoef(slopes.mean("chain").to_numpy().ravel(), exact.ravel())[0, 1] > 0.98
    ratio = float((slopes.mean("chain") * exact).sum() / (exact**2).sum())
    assert ratio == pytest.approx(1, abs=0.2)


@pytest.mark.heavy
def test_the_wanted_change_is_predicted_confirmed_and_true(tree: Any) -> None:
    result = tree.slt.patterning({"near": 0.01, "far": -0.01}, candidates="train")
    np.testing.assert_allclose(result["predicted_change"], [0.01, -0.01], rtol=1e-9)
    assert result.attrs["rank"] == 2
    off = (result["held_out_change"] - result["wanted_change"]) / result["held_out_change_se"]
    assert float(abs(off).max()) < 5
    weights = result["weight"].to_numpy()
    true = expected_losses(weights) - expected_losses(np.ones(NUM_SAMPLES))
    # What is left of the difference is the second order, of which half the change of slope is a bound in practice.
    np.testing.assert_allclose(true, [0.01, -0.01], atol=0.004)


@pytest.mark.heavy
def test_a_run_with_these_weights_changes_as_predicted(tree: Any) -> None:
    weights = tree.slt.patterning({"near": 0.01, "far": -0.01}, candidates="train")["weight"].to_numpy()
    again = run(weights, init_seed=1)
    names, measured, error = ("near", "far"), [], []
    for name in names:
        means = [each[f"observables/{name}/loss"].mean(["draw", "sequence"]) for each in (tree, again)]
        means = [each.squeeze().to_numpy() for each in means]
        measured.append(means[1].mean() - means[0].mean())
        error.append(np.sqrt(sum(each.var(ddof=1) / len(each) for each in means)))
    assert np.sign(measured).tolist() == [1, -1]
    exact = expected_losses(weights) - expected_losses(np.ones(NUM_SAMPLES))
    assert (abs(np.array(measured) - exact) < 4 * np.array(error)).all(), (measured, exact, error)


@pytest.mark.heavy
def test_the_response_to_weights_of_another_origin(tree: Any) -> None:
    result = patterning(tree, {"near": 0.01}, candidates="train")
    weights = np.ones(NUM_SAMPLES)
    assert predicted_change(result, weights)["change"].item() == 0
    assert predicted_change(result, weights).attrs["steps"] == [*result.attrs["steps"], "predicted_change"]
    # Stores give back a list of one text as the text.
    stored = result.assign_attrs(steps=result.attrs["steps"][0])
    assert predicted_change(stored, weights).attrs["steps"] == [*result.attrs["steps"], "predicted_change"]
    weights[3] = 1.5
    changes = predicted_change(result, weights)
    true = exact_derivatives()[0, 3] * 0.5
    assert abs(changes["change"].item() - true) < 5.5 * changes["change_se"].item()
    with pytest.raises(InvalidInputError, match="weights"):
        predicted_change(result, [1.0])


def test_twins_share_their_weight() -> None:
    twins = tuple(torch.cat([each, each[:2]]) for each in TRAIN)
    tree = devinterp.sample(
        optimum(), twins, {"train": (twins, 1), "near": (twins, 1)}, loss_fn=squared_error, lr=1e-3, n_beta=N_BETA,
        num_chains=1, num_draws=20, batch_size=len(twins[0]), progress=False, localization=1.0,
    )  # fmt: skip
    result = tree.slt.patterning({"near": -0.1}, candidates="train", step_size=0.5)
    assert result["duplicate_of"].to_numpy().tolist() == [-1] * NUM_SAMPLES + [0, 1]
    weights = result["weight"].to_numpy()
    np.testing.assert_allclose(weights[-2:], weights[:2], rtol=1e-4)
    assert result["weight_count"].sum() == len(weights)
    assert result["wanted_change"].item() == -0.05
    assert np.isnan(result["held_out_change"]).all()


def test_a_share_of_the_data_is_refused() -> None:
    tree = devinterp.sample(
        optimum(), TRAIN, {"train": (TRAIN, 1), "near": (NEAR, 3)}, loss_fn=squared_error, lr=1e-3, n_beta=N_BETA,
        num_chains=1, num_draws=20, batch_size=4, progress=False, localization=1.0,
    )  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"`candidates`.*4 of at least 12 rows"):
        tree.slt.patterning({"near": 0.01}, candidates="train")


def test_small_profiles_are_no_duplicates_of_each_other() -> None:
    generator = np.random.default_rng(0)
    values = 1e-5 * generator.normal(size=(2, 3, 50))
    values[..., 0] *= 1e5
    values[..., 30] = values[..., 7] * (1 + 1e-6 * generator.normal(size=(2, 3)))
    result = duplicates(values, 100 + np.arange(50))
    assert result[30] == 107
    assert (np.delete(result, 30) == -1).all()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"change": {"near": 0.0}}, "change"),
        ({"change": {"near": np.nan}}, "change"),
        ({"change": {"nowhere": 1.0}}, "change"),
        ({"candidates": "nowhere"}, "candidates"),
        ({"restriction": "nowhere"}, "restriction"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_bad_arguments_are_named(tree: Any, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        tree.slt.patterning(**{"change": {"near": 1.0}, "candidates": "train", **arguments})
