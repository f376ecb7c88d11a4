"""The Metropolis acceptance of steps, as a metric: its value, and that it costs and changes nothing where it is not wanted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import plugins, sample
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.mala import proposes_langevin
from devinterp.types import Target
from support.small_models import Noisy, TinyModel, ids, make, run

NAME = "mala_acceptance"


class Cubic(nn.Module):
    """A loss that is no quadratic, of a vector and a scalar."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.5, -0.3, 1.0]))
        self.b = nn.Parameter(torch.tensor(0.7))


def cubic(model, batch):
    return (batch @ model.a).pow(2) * 0.5 + model.b.pow(4) + 0.1 * (batch @ model.a).pow(3).tanh()


DATA = torch.linspace(-1, 1, 36).view(12, 3).roll(5, 0) ** 2
SETTINGS = {"lr": 0.05, "n_beta": 8.0, "localization": 2.0, "llc_weight_decay": 0.5, "batch_size": 4, "num_chains": 3}


def sampled(metrics=(NAME,), **changes):
    settings = {**SETTINGS, "num_draws": 6, "num_init_loss_batches": 1, "progress": False, "virial": False, **changes}
    return sample(Cubic().eval(), DATA, loss_fn=cubic, save_metrics=metrics, **settings)


def by_definition(scale=1.0):
    """Return acceptances from the textbook: two normal densities and two potentials, in double precision, step by step."""
    tree = sampled(metrics=False)
    t, lr = Target(n_beta=8.0, localization=2.0, weight_decay=0.5), 0.05 / scale
    found = np.zeros((3, 6))
    for chain in range(3):
        model = Cubic().double()
        w0 = torch.cat([model.a.detach(), model.b.detach()[None]])
        w = w0.clone()
        generator = torch.Generator().manual_seed(100 + chain)

        def potential(w, rows, model=model, w0=w0):
            weights = {"a": w[:3], "b": w[3]}
            losses = torch.func.functional_call(Wrapped(model), {f"model.{k}": v for k, v in weights.items()}, (rows,))
            prior = t.localization / 2 * ((w - w0) ** 2).sum() + t.weight_decay / 2 * (w**2).sum()
            return t.n_beta * losses.mean() + prior

        for step in range(6):
            rows = DATA[tree["trace/sequence_id"][chain, step].to_numpy()].double()
            slope = torch.func.grad(potential)(w, rows)
            xi = torch.cat(
                [torch.empty(3).normal_(generator=generator), torch.empty(()).normal_(generator=generator)[None]]
            )
            new = w - lr / 2 * slope + math.sqrt(lr) * xi.double()
            back = torch.func.grad(potential)(new, rows)
            forward_density = -((new - w + lr / 2 * slope) ** 2).sum() / (2 * lr)
            backward_density = -((w - new + lr / 2 * back) ** 2).sum() / (2 * lr)
            ratio = potential(w, rows) - potential(new, rows) + backward_density - forward_density
            found[chain, step] = min(1.0, math.exp(ratio))
            w = new
    return found


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, rows):
        return cubic(self.model, rows)


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_it_is_what_the_definition_says(chains):
    found = sampled(chains=chains)["metrics"][NAME][0]
    expected = by_definition()
    assert expected.min() < 0.97
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_of_rmsprop_with_a_constant_preconditioner_it_is_that_of_sgld():
    """With a large eps the preconditioner is 1 / eps."""
    options = {"sampling_method": "rmsprop_sgld", "sampling_method_kwargs": {"eps": 1e6}, "lr": 0.05 * 1e6}
    np.testing.assert_allclose(sampled(**options)["metrics"][NAME][0], by_definition(), atol=2e-4)


def test_it_falls_with_the_step_and_is_near_one_for_small_ones():
    means = [float(sampled(lr=lr, num_draws=40)["metrics"][NAME].mean()) for lr in (1e-4, 0.02, 0.08)]
    assert means[0] > 0.999 > means[1] > means[2]


@pytest.mark.heavy
def test_on_a_quadratic_it_has_its_exact_mean():
    """For a Gaussian of d equal coordinates log acceptance is (lr a)^2 / 32 a (w² - w'²): its mean by direct integration."""
    lr, a, d, chains = 0.5, 2.0, 10, 400

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(d))

    tree = sample(
        Point().eval(), torch.ones(4, 1), lr=lr, n_beta=a, num_chains=chains, num_draws=30, num_burnin_steps=30, batch_size=4,
        num_init_loss_batches=1, loss_fn=lambda m, b: b[:, 0] * (m.w**2).sum() / 2, save_metrics=(NAME,), progress=False,
        chains="vectorized",
    )  # fmt: skip
    found = tree["metrics"][NAME][0, :, 30:].mean("step").to_numpy()
    generator = np.random.default_rng(0)
    variance = 1 / (a * (1 - lr * a / 4))
    w = generator.standard_normal((400_000, d)) * math.sqrt(variance)
    new = (1 - lr * a / 2) * w + math.sqrt(lr) * generator.standard_normal(w.shape)
    q = lambda x, y: -((y - (1 - lr * a / 2) * x) ** 2).sum(1) / (2 * lr)  # noqa: E731
    exact = np.minimum(1, np.exp(a / 2 * ((w**2).sum(1) - (new**2).sum(1)) + q(new, w) - q(w, new))).mean()
    assert abs(found.mean() - exact) < 5 * found.std() / math.sqrt(chains)


def test_the_chain_is_the_same_with_it():
    plain, measured = sampled(metrics=False), sampled(metrics=[NAME, "distance"])
    np.testing.assert_array_equal(plain["trace/loss"], measured["trace/loss"])
    assert set(measured["metrics"].data_vars) == {NAME, "distance"}


def test_true_means_the_nine_of_v2():
    assert len(sampled(metrics=True)["metrics"].data_vars) == 9


def test_only_what_is_named_is_stored():
    both = sampled(metrics=["noise", "distance"])["metrics"]
    every = sampled(metrics=True)["metrics"]
    assert set(both.data_vars) == {"noise", "distance"}
    np.testing.assert_array_equal(both["noise"], every["noise"])


def test_a_run_without_it_takes_one_gradient_a_step():
    calls = {"plain": 0, "measured": 0}
    for name, metrics in (("plain", True), ("measured", [NAME])):

        def counted(model, batch, name=name):
            calls[name] += torch.is_grad_enabled()
            return cubic(model, batch)

        sample(
            Cubic().eval(), DATA, loss_fn=counted, save_metrics=metrics, chains="sequential", progress=False,
            **{**SETTINGS, "num_chains": 1, "num_draws": 20},
        )  # fmt: skip
    assert calls["measured"] - calls["plain"] == 20


class Padded(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


def test_padding_and_accumulation_do_not_matter_to_it():
    """Masked positions are NaN in the losses, and minibatches of a step are averaged as their gradients are."""
    tokens = ids().clone()
    mask = torch.ones_like(tokens)
    mask[::2, 5:] = 0
    data = {"input_ids": tokens, "attention_mask": mask}
    tree = run(make(Padded), data, save_metrics=[NAME], gradient_accumulation_steps=2, lr=1e-5)
    assert float(tree["metrics"][NAME].min()) > 0.99


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metrics", ["distance", [], ["distance", "distance"], ["speed"], 3])
def test_names_are_checked(metrics):
    with pytest.raises(InvalidInputError, match=r"`save_metrics` \(=.*\) must"):
        sampled(metrics=metrics)


@pytest.mark.parametrize("changes", [{"noise_level": 0.0}, {"bounding_box_size": 0.1}])
def test_steps_that_are_no_proposals_are_refused(changes):
    with pytest.raises(InvalidInputError, match="is of steps that are proposals"):
        sampled(**changes)


@pytest.mark.parametrize(
    ("kernel", "options", "langevin"),
    [
        ("sgld", {}, True),
        ("rmsprop_sgld", {}, True),
        ("rmsprop_sgld", {"bias_correction": True}, True),
        ("rmsprop_sgld", {"gamma": True}, False),
        ("sghmc", {}, False),
        ("sgnht", {}, False),
        ("leimkuhler_matthews", {}, False),
        ("baoab", {}, False),
        ("rmsprop_leimkuhler_matthews", {}, False),
        ("rmsprop_baoab", {}, False),
    ],
)
def test_only_langevin_steps_have_one(kernel, options, langevin):
    target = Target(n_beta=8.0, localization=2.0, weight_decay=0.5)
    transition = plugins.kernel(kernel).build(target, lr=0.1, **options)
    assert proposes_langevin(transition, target) == langevin
    if not langevin:
        with pytest.raises(InvalidInputError, match=rf"steps of Langevin type.*'{kernel}' with .* takes others"):
            sampled(sampling_method=kernel, sampling_method_kwargs=options)


def test_a_model_in_train_mode_is_refused():
    with pytest.raises(InvalidInputError, match=r"call `model.eval\(\)`"):
        run(make(Noisy).train(), save_metrics=[NAME])
