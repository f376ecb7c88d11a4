"""The heart of example scripts of DevInterp 1, as they are written."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from devinterp import notes
from devinterp.backends.default.slt.sampler import sample as sample_of_backend
from devinterp.errors import InvalidInputError
from devinterp.optim.sgld import SGLD
from devinterp.optim.sgnht import SGNHT
from devinterp.slt.callback import SamplerCallback, validate_callbacks
from devinterp.slt.llc import LLCEstimator, OnlineLLCEstimator
from devinterp.slt.loss import OnlineLossStatistics
from devinterp.slt.mala import MalaAcceptanceRate, mala_acceptance_probability
from devinterp.slt.norms import GradientNorm, NoiseNorm, WeightNorm
from devinterp.slt.sampler import (
    ChainHealthError,
    estimate_learning_coeff,
    estimate_learning_coeff_with_summary,
    sample,
)
from devinterp.slt.wbic import OnlineWBICEstimator
from devinterp.utils import (
    Outputs,
    cycle,
    default_nbeta,
    evaluate,
    get_init_loss_full_batch,
    get_init_loss_multi_batch,
    get_init_loss_one_batch,
    make_evaluate,
    plot_trace,
    prepare_input,
    split_results,
)
from support.small_models import TinyModel, ids, make, snapshot


def evaluate_mse(model, batch):
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets), {"output": 1}


@pytest.fixture
def regression():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = torch.randn(64, 3)
        targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.5 * torch.randn(64, 1)
        model = nn.Linear(3, 1)
    with torch.no_grad():
        columns = torch.cat([inputs, torch.ones(64, 1)], 1)
        solution = torch.linalg.lstsq(columns, targets).solution
        model.weight.copy_(solution[:3].T)
        model.bias.copy_(solution[3])
    return model, DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)


def test_linear_regression(regression):
    model, loader = regression
    before = snapshot(model)
    # The summed squared error is twice the log-likelihood per sample at a noise of one half: lambda is d / 2 for any n_beta.
    stats = estimate_learning_coeff_with_summary(
        model,
        loader=loader,
        evaluate=evaluate_mse,
        sampling_method=SGLD,
        optimizer_kwargs={"lr": 4e-3, "localization": 1.0, "nbeta": 200.0},
        num_chains=4,
        num_draws=400,
        num_burnin_steps=50,
        num_steps_bw_draws=1,
        device="cpu",
        online=False,
        seed=42,
        verbose=False,
    )
    assert snapshot(model) == before
    assert set(stats) == {"llc/mean", "llc/std", *(f"llc-chain/{n}" for n in range(4)), "loss/trace"}
    assert all(type(stats[name]) is float for name in stats if name != "loss/trace")
    assert stats["loss/trace"].shape == (4, 400)
    assert stats["loss/trace"].dtype == np.float32
    chains = [stats[f"llc-chain/{n}"] for n in range(4)]
    assert stats["llc/mean"] == pytest.approx(np.mean(chains), rel=1e-5)
    assert stats["llc/std"] == pytest.approx(np.std(chains, ddof=1), rel=1e-4)
    # Of a quadratic loss of four weights: 2 less what localization and the step size do to each, to five standard errors.
    columns = torch.cat([loader.dataset.tensors[0], torch.ones(64, 1)], 1)
    curvature = torch.linalg.eigvalsh(200.0 * 2 * columns.T @ columns / 64).double()
    total = curvature + 1.0
    want = float((curvature / total / (1 - 4e-3 * total / 4) / 2).sum())
    assert stats["llc/mean"] == pytest.approx(want, abs=5 * stats["llc/std"] / 2)


def test_online_estimates(regression):
    model, loader = regression
    options = {
        "optimizer_kwargs": {"lr": 1e-3, "localization": 1.0, "nbeta": 20.0},
        "num_chains": 3,
        "num_draws": 7,
        "seed": 1,
    }
    stats = estimate_learning_coeff_with_summary(model, loader, evaluate=evaluate_mse, online=True, **options)
    assert set(stats) == {"init_loss", "llc/means", "llc/stds", "llc/trace", "loss/trace"}
    assert stats["llc/means"].shape == stats["llc/stds"].shape == (7,)
    assert stats["llc/trace"].shape == stats["loss/trace"].shape == (3, 7)
    assert type(stats["init_loss"]) is float
    running = stats["loss/trace"].cumsum(1) / np.arange(1, 8)
    np.testing.assert_allclose(stats["llc/trace"], 20 * (running - stats["init_loss"]), rtol=1e-4, atol=1e-5)
    offline = estimate_learning_coeff_with_summary(model, loader, evaluate=evaluate_mse, **options)
    np.testing.assert_array_equal(offline["loss/trace"], stats["loss/trace"])
    assert offline["llc/mean"] == pytest.approx(stats["llc/means"][-1], rel=1e-4)
    number = estimate_learning_coeff(model, loader, evaluate=evaluate_mse, **options)
    assert type(number) is float
    assert number == offline["llc/mean"]


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))


def test_a_small_cnn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images, labels = CNN(), torch.randn(64, 1, 8, 8), torch.randint(3, (64,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    for evaluation in (
        make_evaluate(criterion),
        lambda m, d: {"loss": criterion(m(d[0]), d[1])},
        lambda m, d: criterion(m(d[0]), d[1]),
        lambda m, d: Outputs(loss=criterion(m(d[0]), d[1])),
        lambda m, d: evaluate(criterion, m, d),
    ):
        stats = estimate_learning_coeff_with_summary(
            model,
            loader,
            evaluate=evaluation,
            optimizer_kwargs={"lr": 1e-4, "localization": 100.0, "nbeta": default_nbeta(loader)},
            num_chains=2,
            num_draws=4,
            grad_accum_steps=2,
            seed=[3, 8],
            cores=2,
            device=torch.device("cpu"),
        )
        assert np.isfinite(stats["llc/mean"])
        assert (stats["loss/trace"] == stats["loss/trace"]).all()
    again = estimate_learning_coeff(
        model,
        loader,
        evaluate=make_evaluate(criterion),
        num_chains=2,
        num_draws=4,
        seed=[3, 8],
        grad_accum_steps=2,
        optimizer_kwargs={"lr": 1e-4, "localization": 100.0, "nbeta": default_nbeta(loader)},
    )
    assert again == stats["llc/mean"]


def test_a_transformer_with_a_loader():
    model = make(TinyModel)
    loader = DataLoader(ids(), batch_size=8, shuffle=True)

    def evaluate_tokens(model, batch):
        return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:])

    masks = {"head.weight": torch.ones(23, 6, dtype=torch.bool)}
    seen = []
    stats = estimate_learning_coeff_with_summary(
        model,
        loader,
        callbacks=[lambda chain, draw, model: seen.append((chain, draw, float(model.embed.weight.sum())))],
        evaluate=evaluate_tokens,
        sampling_method=SGNHT,
        optimizer_kwargs={"lr": 1e-5, "diffusion_factor": 0.01, "nbeta": 2.0},
        num_chains=2,
        num_draws=3,
        num_burnin_steps=1,
        num_steps_bw_draws=2,
        optimize_over_per_model_param=masks,
    )
    assert stats["loss/trace"].shape == (2, 3)
    assert [each[:2] for each in seen] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len({each[2] for each in seen}) == 1, "only the masked parameter moves"


def test_callbacks(regression):
    model, loader = regression
    kwargs = {"lr": 1e-3, "localization": 1.0, "nbeta": 20.0, "save_noise": True, "save_mala_vars": True}
    start = get_init_loss_full_batch(loader, model, evaluate_mse, "cpu")
    online = OnlineLLCEstimator(2, 5, start, nbeta=20.0)
    callbacks = [
        LLCEstimator(2, 5, init_loss=start, nbeta=20.0, device="cpu"),
        online,
        WeightNorm(num_chains=2, num_draws=5),
        GradientNorm(2, 5, p_norm=2),
        NoiseNorm(2, 5),
        MalaAcceptanceRate(2, 5, learning_rate=1e-3, nbeta=20.0),
        OnlineLossStatistics(online),
        OnlineWBICEstimator(2, 5, n=64),
    ]
    assert validate_callbacks(callbacks)
    options = {"optimizer_kwargs": kwargs, "num_chains": 2, "num_draws": 5, "seed": 0, "verbose": False}
    results = sample(model, loader, callbacks, evaluate=evaluate_mse, init_loss=start, **options)
    shapes = {name: getattr(value, "shape", ()) for name, value in results.items()}
    for name in (
        "loss/trace",
        "llc/trace",
        "weight_norm/trace",
        "gradient_norm/trace",
        "noise_norm/trace",
        "wbic/trace",
    ):
        assert shapes[name] == (2, 5), name
        assert np.isfinite(results[name]).all()
    for name in ("percent_neg_steps", "percent_mean_neg_steps", "percent_thresholded_neg_steps", "z_scores"):
        assert shapes[f"loss/{name}"] == (2, 5)
    assert shapes["mala_accept/trace"] == (2, 4)
    # On a full batch SGLD is MALA without its test: small steps are all but always accepted.
    assert 0.99 < results["mala_accept/mean"] <= 1
    np.testing.assert_allclose(results["noise_norm/trace"].mean(), (1e-3 * 4) ** 0.5, rtol=0.5)
    assert results["llc/mean"] == callbacks[0].get_results()["llc/mean"]
    backend = sample_of_backend(
        model, loader, [LLCEstimator(2, 5, start, nbeta=20.0)], evaluate=evaluate_mse, **options
    )
    np.testing.assert_array_equal(backend["loss/trace"], results["loss/trace"])


def test_acceptance_is_metropoliss():
    rng = np.random.default_rng(0)
    w, v, g, h = (torch.tensor(rng.normal(size=3)) for _ in range(4))
    lr = 0.3

    def log_q(to, start, slope):
        return -float(((to - start + lr / 2 * slope) ** 2).sum()) / (2 * lr)

    want = min(1.0, np.exp(1.2 - 1.5 + log_q(w, v, h) - log_q(v, w, g)))
    before, after = ([w[:1], w[1:]], [g[:1], g[1:]], 1.2), ([v[:1], v[1:]], [h[:1], h[1:]], 1.5)
    assert mala_acceptance_probability(*before, *after, lr) == pytest.approx(want)


def test_a_callback_of_ones_own_with_results(regression):
    model, loader = regression

    class Collect(SamplerCallback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __call__(self, chain, draw, **kwargs):
            self.seen.append(float(kwargs["loss"]))

        def get_results(self):
            return {"seen": self.seen}

    options = {"evaluate": evaluate_mse, "optimizer_kwargs": {"lr": 1e-3}, "num_chains": 1, "num_draws": 3}
    assert len(sample(model, loader, [Collect()], **options)["seen"]) == 3
    with pytest.raises(InvalidInputError, match="must be a function"):
        sample(model, loader, [3], **options)
    with pytest.raises(InvalidInputError, match="save_noise"):
        sample(model, loader, [NoiseNorm(1, 3)], **options)


def test_errors(regression):
    model, loader = regression
    with pytest.raises(ChainHealthError, match="the loss is not finite at step"):
        estimate_learning_coeff(model, loader, evaluate=evaluate_mse, optimizer_kwargs={"lr": 1e30, "nbeta": 1.0})
    with pytest.raises(InvalidInputError, match="`evaluate` is needed"):
        estimate_learning_coeff(model, loader)
    with pytest.raises(InvalidInputError, match="`seed` has 1 entries for 2 chains"):
        estimate_learning_coeff(model, loader, evaluate=evaluate_mse, num_chains=2, seed=[1])
    with pytest.raises(InvalidInputError, match="`nbeta` is needed"):
        LLCEstimator(1, 1, 0.0)


def test_one_note_shows_the_call_of_today(regression, caplog, monkeypatch):
    monkeypatch.setattr(notes, "_SAID", set())
    model, loader = regression
    for _ in range(2):
        with caplog.at_level(logging.WARNING, logger="devinterp"):
            estimate_learning_coeff(
                model,
                loader,
                evaluate=evaluate_mse,
                num_chains=1,
                num_draws=2,
                optimizer_kwargs={"lr": 1e-3, "nbeta": 7.0},
            )
    [record] = caplog.records
    assert (
        "llc(model, dataset, loss_fn=..., lr=0.001, n_beta=7, localization=0, num_chains=1, num_draws=2)"
        in record.message
    )


def test_helpers(regression):
    model, loader = regression
    batch = next(iter(loader))
    assert list(cycle([1, 2], limit=5)) == [1, 2, 1, 2, 1]
    loss = torch.tensor(1.0)
    assert split_results((loss, 2)) == (loss, 2)
    assert split_results((loss, 2, 3)) == (loss, (2, 3))
    assert split_results({"loss": loss, "a": 2}) == (loss, {"a": 2})
    assert split_results(loss) == (loss, None)
    with pytest.raises(InvalidInputError, match="`evaluate` must return a loss"):
        split_results("loss")
    whole = float(evaluate_mse(model, batch)[0].detach())
    assert get_init_loss_one_batch(loader, model, evaluate_mse, "cpu") == pytest.approx(whole, rel=1e-5)
    assert get_init_loss_multi_batch(loader, 3, model, evaluate_mse, "cpu", seed=0) == pytest.approx(whole, rel=1e-5)
    assert default_nbeta(loader) == default_nbeta(dataloader=64) == default_nbeta(32, grad_accum_steps=2)
    moved = prepare_input({"a": [torch.ones(1)], "b": "text"}, "cpu")
    assert moved["b"] == "text"
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    assert plot_trace(np.ones((2, 3)), "LLC", true_lc=1.0).axes[0].get_ylabel() == "LLC"
    plt.close("all")
