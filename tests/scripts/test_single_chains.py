"""`sample_single_chain` as DevInterp 2 has it, and the optimizers by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.optim import SGLD, SGMCMC, SGNHT
from devinterp.optim.metrics import Metrics
from devinterp.optim.preconditioner import (
    CompositePreconditioner,
    IdentityPreconditioner,
    MaskPreconditioner,
    NHTPreconditioning,
    PreconditionerCoefs,
    RMSpropPreconditioner,
)
from devinterp.optim.prior import CompositePrior, GaussianPrior, UniformPrior
from devinterp.slt.sampler import (
    ChainHealthError,
    calculate_num_steps,
    is_transformer_lens_model,
    sample_single_chain,
    set_seed,
)
from support.small_models import ids, make, snapshot


def evaluate(model, batch):
    rows = batch["input_ids"]
    losses = F.cross_entropy(model(rows)[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
    return losses, {"size": model.head.weight.norm()}


def test_as_devinterp_2_calls_it():
    model = make()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    before, seen = snapshot(model), []

    def callback(loss, draw, chain, model, optimizer):
        seen.append(("draw", draw, chain, tuple(loss.shape), optimizer.param_groups[0]["lr"]))

    def step(chain, step, optimizer):
        seen.append(("step", chain, step, isinstance(optimizer, torch.optim.Optimizer)))

    def micro(loss, input_ids, chain, step, micro_step):
        seen.append(("micro", step, micro_step, tuple(input_ids.shape)))

    options = {"sampling_method": SGLD, "sampling_method_kwargs": {"lr": 1e-4, "nbeta": 10.0}, "seed": 1}
    hooks = {"callbacks": [callback], "step_callback": step, "micro_callback": micro}
    found = sample_single_chain(model, ids(), evaluate, masks, num_draws=2, batch_size=4, **options, **hooks)
    assert seen == [
        ("micro", 0, 0, (4, 9)),
        ("step", 0, 0, True),
        ("draw", 0, 0, (4, 8), 1e-4),
        ("micro", 1, 0, (4, 9)),
        ("step", 0, 1, True),
        ("draw", 1, 0, (4, 8), 1e-4),
    ]
    assert found["size"].sizes == {"draw": 2}
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("kernel", "optimizer", "options"),
    [("sgld", SGLD, {}), ("sgld", SGMCMC.sgld, {}), ("rmsprop_sgld", SGMCMC.rmsprop_sgld, {"alpha": 0.9, "eps": 0.2})],
)
@pytest.mark.parametrize("masked", [False, True])
def test_an_optimizer_moves_a_chain_as_the_kernel_does(kernel, optimizer, options, masked):
    columns = torch.zeros(23, 6, dtype=torch.bool)
    columns[:, :2] = True
    common = {"num_draws": 5, "batch_size": 4, "num_burnin_steps": 2, "gradient_accumulation_steps": 2}
    settings = {"localization": 5.0, "weight_decay": 0.1, "bounding_box_size": 0.05, **options}
    masks = {"head.weight": columns, "mix.bias": None} if masked else None
    by_kernel = sample_single_chain(
        make(),
        ids(),
        evaluate,
        masks,
        **common,
        lr=1e-3,
        n_beta=10.0,
        init_noise=0.01,
        sampling_method=kernel,
        sampling_method_kwargs=settings,
    )
    by_optimizer = sample_single_chain(
        make(),
        ids(),
        evaluate,
        masks,
        **common,
        init_noise=0.01,
        sampling_method=optimizer,
        sampling_method_kwargs={"lr": 1e-3, "nbeta": 10.0, **settings},
    )
    np.testing.assert_allclose(by_optimizer["loss"], by_kernel["loss"], rtol=1e-6)
    np.testing.assert_allclose(by_optimizer["size"], by_kernel["size"], rtol=1e-6)


def test_seeds_and_order():
    options = {"num_draws": 3, "batch_size": 4, "lr": 1e-3, "n_beta": 10.0}
    first = sample_single_chain(make(), ids(), evaluate, **options, seed=1, dataloader_seed=2)
    same = sample_single_chain(make(), ids(), evaluate, **options, seed=1, init_seed=2)
    other = sample_single_chain(make(), ids(), evaluate, **options, seed=1, dataloader_seed=3)
    assert (first["loss"] == same["loss"]).all()
    assert first["loss"][0] != other["loss"][0]
    with pytest.raises(InvalidInputError, match="epoch_mode='once': 7 steps need more minibatches than an epoch has"):
        sample_single_chain(make(), ids(), evaluate, **{**options, "num_draws": 7}, epoch_mode="once")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beta": 1.0}, "`lr` is needed"),
        ({"sampling_method": torch.optim.SGD, "sampling_method_kwargs": {"lr": 1.0, "nbeta": 1.0}}, "takes no `nbeta`"),
        (
            {"sampling_method": SGMCMC, "sampling_method_kwargs": {"lr": 1.0, "nbeta": 1.0, "alfa": 1.0}},
            "takes no `alfa`",
        ),
    ],
)
def test_what_cannot_be_used(options, message):
    with pytest.raises(InvalidInputError, match=message):
        sample_single_chain(make(), ids(), evaluate, num_draws=1, batch_size=4, **options)


def test_a_chain_that_diverges():
    with pytest.raises(ChainHealthError, match="the loss is not finite at step 1"):
        sample_single_chain(make(), ids(), evaluate, num_draws=3, batch_size=4, lr=1e30, n_beta=1.0)


def test_a_batch_is_a_tensor_and_answers_by_name():
    def look(model, batch):
        assert torch.equal(batch["input_ids"], batch)
        assert list(batch.keys()) == ["input_ids"]
        assert "input_ids" in batch
        assert batch.get("labels") is None
        assert type(batch[:, 1:]) is torch.Tensor
        assert type(batch + 0) is torch.Tensor
        return evaluate(model, batch)[0].mean(), None

    assert set(sample_single_chain(make(), ids(), look, num_draws=1, batch_size=4, lr=1e-3, n_beta=1.0)) == {"loss"}


def test_small_helpers():
    assert calculate_num_steps(num_draws=5, num_steps_bw_draws=2, num_burnin_steps=3) == 13
    assert not is_transformer_lens_model(make())
    with torch.random.fork_rng(devices=[]):
        set_seed(3)
        first = torch.rand(2)
        set_seed(3, device="cpu")
        assert torch.equal(torch.rand(2), first)


# -- optimizers -------------------------------------------------------------------------------------------------------


def moved(make_optimizer, steps=3):
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer, generator = make_optimizer([parameter]), torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step(noise_generator=generator)
    return parameter.detach(), optimizer


#: Three steps of DevInterp 2.0.1 from (1, 2), loss w², generator seeded 0.
RECORDED = {
    "sgld": (
        lambda p: SGLD(p, lr=0.1, nbeta=2.0, localization=3.0, weight_decay=0.5, bounding_box_size=0.05),
        [0.95, 1.95],
    ),
    "sgmcmc": (lambda p: SGMCMC.sgld(p, lr=0.1, nbeta=2.0, localization=3.0, weight_decay=0.5), [-0.0367, 0.7268]),
    "rmsprop": (lambda p: SGMCMC.rmsprop_sgld(p, lr=0.1, nbeta=2.0, localization=3.0), [-0.2704, 0.4250]),
}


@pytest.mark.parametrize("name", RECORDED)
def test_steps_are_those_of_devinterp_2(name):
    optimizer, want = RECORDED[name]
    np.testing.assert_allclose(moved(optimizer)[0], want, atol=1e-4)


def test_metrics_are_those_of_devinterp_2():
    _, optimizer = moved(
        lambda p: SGLD(
            p, lr=0.1, nbeta=2.0, localization=3.0, weight_decay=0.5, bounding_box_size=0.05, save_metrics=True
        )
    )
    metrics = optimizer.get_metrics()
    recorded = {
        "scaled_grad": 0.4338,
        "localization": 0.0106,
        "weight_decay": 0.0542,
        "noise": 0.5597,
        "distance": 0.0707,
    }
    recorded |= {"dot_grad_prior": 0.0192, "dot_grad_noise": -0.2376, "dot_prior_noise": -0.0238}
    for field, value in recorded.items():
        assert float(getattr(metrics, field)) == pytest.approx(value, abs=1e-4)
    assert metrics.numel == 2
    assert Metrics.aggregate([metrics, metrics]).numel == 4
    assert float(Metrics.aggregate([metrics, metrics]).noise) == pytest.approx(0.5597 * 2**0.5, abs=1e-3)


@pytest.mark.parametrize(
    "prior",
    [
        GaussianPrior(3.0),
        CompositePrior([GaussianPrior(2.0), GaussianPrior(1.0), UniformPrior()]),
        GaussianPrior(3.0, center=[torch.tensor([1.0, 2.0])]),
    ],
)
@pytest.mark.parametrize(
    "preconditioner", ["rmsprop", CompositePreconditioner([RMSpropPreconditioner(), IdentityPreconditioner()])]
)
def test_ways_of_saying_the_same(prior, preconditioner):
    same, _ = moved(lambda p: SGMCMC(p, lr=0.1, nbeta=lambda: 2.0, prior=prior, preconditioner=preconditioner))
    np.testing.assert_allclose(same, RECORDED["rmsprop"][1], atol=1e-4)


def test_masks_of_an_optimizer():
    mask = torch.tensor([True, False])
    for optimizer in (
        lambda p: SGLD(p, lr=0.1, nbeta=2.0, optimize_over=mask),
        lambda p: SGMCMC(p, lr=0.1, nbeta=2.0, mask=mask),
        lambda p: SGMCMC(p, lr=0.1, nbeta=2.0, preconditioner=MaskPreconditioner([mask])),
    ):
        weights, _ = moved(optimizer)
        assert weights[1] == 2
        assert weights[0] != 1


def test_the_law_of_the_optimizer_is_that_of_the_target():
    parameter = nn.Parameter(torch.zeros(2000))
    optimizer, generator = SGLD([parameter], lr=0.02, nbeta=4.0, localization=2.0), torch.Generator().manual_seed(1)
    squares = []
    for step in range(600):
        optimizer.zero_grad()
        (parameter**2 / 2).sum().backward()
        optimizer.step(noise_generator=generator)
        if step >= 200 and step % 20 == 0:
            squares.append(float((parameter.detach() ** 2).mean()))
    want = 1 / 6 / (1 - 0.02 * 6 / 4)  # curvature n_beta + localization; the step's own bias
    error = want * (2 / 2000 / len(squares) * 2) ** 0.5  # 20 steps apart, draws are all but independent
    assert np.mean(squares) == pytest.approx(want, abs=5 * error)


def test_a_thermostat_and_what_is_refused():
    weights, _ = moved(lambda p: SGNHT(p, lr=0.1, nbeta=2.0))
    np.testing.assert_allclose(weights, moved(lambda p: SGMCMC.sgnht(p, lr=0.1, nbeta=2.0))[0])
    assert SGMCMC.get_method("rmsprop_sgld") == SGMCMC.rmsprop_sgld
    with pytest.raises(InvalidInputError, match="must be one of"):
        SGMCMC.get_method("hmc")
    with pytest.raises(InvalidInputError, match="`sketch_dim`"):
        SGLD([nn.Parameter(torch.zeros(1))], sketch_dim=3)
    with pytest.raises(InvalidInputError, match="gamma"):
        RMSpropPreconditioner(add_grad_correction=True)
    with pytest.raises(InvalidInputError, match="must be a Preconditioner"):
        SGMCMC([nn.Parameter(torch.zeros(1))], preconditioner="adam")
    with pytest.raises(InvalidInputError, match="thermostat|no scaling"):
        NHTPreconditioning().get_coefficients(torch.zeros(1), torch.zeros(1), {})
    combined = PreconditionerCoefs(2.0, 3.0, 4.0, 5.0).combine_with(PreconditionerCoefs(7.0, 11.0, 13.0, 17.0, 1.0))
    assert combined == (14.0, 33.0, 52.0, 85.0, 1.0)


def test_closures_and_schedulers_of_torch():
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = SGLD([parameter], lr=0.1, noise_level=0.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum() / 2
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4.5
    np.testing.assert_allclose(parameter.detach(), 3 * 0.95)
    scheduler.step()
    optimizer.step(closure)
    np.testing.assert_allclose(parameter.detach(), 3 * 0.95 * 0.975, rtol=1e-6)
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
