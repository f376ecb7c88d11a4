"""The caller's model, and everything global, is afterwards what it was before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.model_guard import sheltered
from devinterp.slt.llc import llc
from devinterp.slt.sampler import sample_single_chain
from support.small_models import Noisy, TinyModel, ids, make, random_states, run, same_numbers, snapshot

pytestmark = pytest.mark.usefixtures("unchecked")


class StopError(Exception):
    """Raised by a loss function in the middle of a run."""


def in_disarray(kind: type[TinyModel] = TinyModel, dtype: torch.dtype = torch.float32) -> TinyModel:
    """Return a model with gradients, a frozen parameter, and modules in different modes."""
    model = make(kind, dtype=dtype)
    for parameter in model.mix.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    model.head.bias.requires_grad_(False)
    model.embed.train()
    return model


def interrupted_by(error: type[BaseException], after: int):
    calls = iter(range(10**6))

    def loss_fn(model, batch):
        if next(calls) == after:
            raise error("as a test")
        logits = model(batch)[:, :-1]
        return nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")

    return loss_fn


@pytest.mark.parametrize("kind", [TinyModel, Noisy])
@pytest.mark.parametrize(
    ("dtype", "chains"),
    [
        (torch.float32, "sequential"),
        (torch.float32, "auto"),
        (torch.bfloat16, "sequential"),
        (torch.float64, "sequential"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_after_a_run(kind, dtype, training, chains):
    model = in_disarray(kind, dtype)
    if training:
        model.train()
    before, states = snapshot(model), random_states()
    run(model, observables={"code": ids("code")}, save_metrics=True, init_noise=0.01, chains=chains)
    assert snapshot(model) == before
    assert random_states() == states


def test_after_a_masked_run_of_several_restrictions():
    model = in_disarray()
    before = snapshot(model)
    mask = torch.zeros(23, 6, dtype=torch.bool)
    mask[[3, 8, 9], 2] = True
    run(model, weight_restrictions={"all": None, "some": {"head.weight": mask}, "rows": {"embed.weight": mask}})
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 3, 8])
@pytest.mark.parametrize("kind", [TinyModel, Noisy])
def test_after_an_error_inside(error, after, kind):
    model = in_disarray(kind)
    model.train()
    before, states = snapshot(model), random_states()
    with pytest.raises(error, match="as a test"):
        run(model, loss_fn=interrupted_by(error, after), observables={"code": ids("code")})
    assert snapshot(model) == before
    assert random_states() == states


def test_after_a_chain_diverged():
    model = in_disarray()
    before = snapshot(model)
    with pytest.warns(UserWarning, match="diverged"):
        run(model, lr=1e6, localization=1e9, num_draws=40)
    assert snapshot(model) == before


def test_after_a_model_whose_forward_was_replaced():
    """As the hooks of the accelerate package do, with an attribute of the instance."""
    model = make()
    original = model.head.forward
    model.head.forward = lambda hidden: original(hidden)
    before = snapshot(model)
    run(model, observables={"code": ids("code")})
    assert snapshot(model) == before


def test_after_memory_ran_out_while_weights_were_taken(monkeypatch):
    model = in_disarray()
    before = snapshot(model)

    def fail(self, model, masks):
        raise MemoryError("as a test")

    monkeypatch.setattr(InPlaceWeights, "__init__", fail)
    with pytest.raises(MemoryError, match="as a test"):
        run(model)
    assert snapshot(model) == before


def test_after_one_call_and_single_chain():
    model = in_disarray(Noisy)
    before, states = snapshot(model), random_states()
    llc(model, ids(), lr=1e-3, n_beta=10.0, num_chains=1, num_draws=2, batch_size=4)
    sample_single_chain(
        model, ids(), lambda m, b: (m(b).square().mean(), None), lr=1e-3, n_beta=10.0, num_draws=2, batch_size=4
    )
    assert snapshot(model) == before
    assert random_states() == states


@pytest.mark.parametrize("kind", [TinyModel, Noisy])
@pytest.mark.parametrize("training", [False, True])
def test_sampling_happens_in_the_mode_the_model_is_in(kind, training):
    model = make(kind)
    model.train(training)
    counted = []
    model.register_forward_hook(lambda module, args, output: counted.append((module.training, output.shape[0])))
    run(model, observables={"code": ids("code")})
    seen = {mode for mode, _ in counted}
    # Structure may be looked up in eval mode, and that of one batch is compared with train mode; but no loss is measured in
    # another mode than the model's own.
    assert seen <= {training, False}
    modes = [mode for mode, rows in counted if rows == 4]
    assert modes.count(not training) <= (1 if training and kind is TinyModel else 0)
    assert modes.count(training) > 10


def test_dropout_is_on_in_train_mode_only():
    def trace(training):
        model = make(Noisy)
        model.train(training)
        return run(model, noise_level=0.0, lr=1e-12, num_chains=1)["trace/loss"].to_numpy()

    assert not np.allclose(trace(True), trace(False), rtol=1e-2)
    np.testing.assert_array_equal(trace(False), trace(False))


def test_a_run_with_dropout_can_be_repeated():
    model = make(Noisy)
    model.train()
    torch.manual_seed(1)
    first = run(model)
    torch.manual_seed(2)
    same_numbers(run(model), first)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_gradients_switched_off(context):
    expected = run()
    model = make()
    with context():
        same_numbers(run(model), expected)


def test_small_steps_are_not_rounded_away_in_bfloat16():
    """The masters are float32: losses of the last draw move although one update is below the model's resolution."""
    model = make(dtype=torch.bfloat16)
    resolution = 2.0**-8 * float(model.embed.weight.detach().float().abs().mean())
    lr = (resolution / 20) ** 2
    tree = run(model, lr=lr, num_draws=400, num_chains=1, save_metrics=True, localization=0.0)
    distance = tree["metrics/distance"].to_numpy()[0, 0]
    num = int(tree["num_moving"][0])
    expected = np.sqrt(lr * num * np.arange(len(distance)))  # a random walk: the drift is negligible at this step size
    np.testing.assert_allclose(distance[20:], expected[20:], rtol=0.25)
    assert np.ptp(tree["trace/loss"].to_numpy().mean((0, 1, 3, 4))) > 0


def test_bfloat16_without_noise_descends():
    model = make(dtype=torch.bfloat16)
    tree = run(model, lr=1e-3, noise_level=0.0, n_beta=1.0, num_draws=300, batch_size=24, num_chains=1, localization=0)
    loss = tree["trace/loss"].to_numpy().mean((0, 1, 3, 4))
    reference = (
        run(make(), lr=1e-3, noise_level=0.0, n_beta=1.0, num_draws=300, batch_size=24, num_chains=1, localization=0)[
            "trace/loss"
        ]
        .to_numpy()
        .mean((0, 1, 3, 4))
    )
    drop = reference[0] - reference[-1]
    assert drop > 0.002
    # Every single step is far below bfloat16's resolution; the loss still falls as it does in float32.
    np.testing.assert_allclose(loss[0] - loss[-1], drop, rtol=0.2)


def test_recurrent_modules_are_run_without_cudnn_which_cannot_differentiate_them_in_eval_mode():
    model, enabled = nn.GRU(2, 2).eval(), torch.backends.cudnn.enabled
    with sheltered(model, "cuda", seed=0):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled == enabled
    for other, device in ((nn.GRU(2, 2).train(), "cuda"), (nn.Linear(2, 2).eval(), "cuda"), (model, "cpu")):
        with sheltered(other, device, seed=0):
            assert torch.backends.cudnn.enabled == enabled


def test_a_shared_parameter_is_moved_once():
    model = make()
    model.head.weight = model.embed.weight
    before = snapshot(model)
    tree = run(model)
    assert int(tree["num_moving"][0]) == sum(p.numel() for p in model.parameters())
    assert snapshot(model) == before
