"""What happens when something goes wrong: nothing that was sampled is lost, and the message says how to go on."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from zarr.storage import LocalStore

import devinterp
from devinterp import BrokenChainsError, sample
from devinterp.errors import DivergenceWarning, InvalidInputError, StoreMismatchError
from devinterp.slt.bif import bif
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.sampler import sample_single_chain
from devinterp.slt.susceptibilities import susceptibilities
from devinterp.store.integrity import check
from support.small_models import SHORT, ids, make, run

R = {name: value for name, value in SHORT.items() if name != "chains"}
ONE_CALL = {
    "llc": lambda **options: llc(make(), ids(), {"code": ids("code")}, **options),
    "bif": lambda **options: bif(make(), ids(), {"code": ids("code")}, correlation_method="sequence", **options),
    "susceptibilities": lambda **options: susceptibilities(
        make(), ids(), {"train": ids(), "code": ids("code")}, sampling_task="train", **options
    ),
}


@cache
def threshold() -> float:
    """Return a value of one weight that one of two chains exceeds on its way, and the other does not."""

    def evaluate(model, batch):
        return losses_of(model, batch).mean(), model.head.bias[0]

    shared = {name: R[name] for name in ("lr", "n_beta", "localization", "batch_size")}
    chains = [
        sample_single_chain(make(), ids(), evaluate, chain=chain, num_draws=R["num_draws"] + 1, **shared)[
            "results"
        ].max()
        for chain in range(2)
    ]
    return float(sum(chains) / 2)


def losses_of(model, batch):
    return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")


def breaking(model, batch):
    """Return losses that are not finite in one of two chains."""
    return losses_of(model, batch) * torch.where(model.head.bias[0] > threshold(), torch.nan, 1.0)


@pytest.mark.filterwarnings("ignore::devinterp.errors.DivergenceWarning")
@pytest.mark.parametrize("name", ONE_CALL)
@pytest.mark.parametrize("stored", [False, True])
def test_the_error_of_one_call_carries_the_run(name, stored, tmp_path):
    path = tmp_path / "run.zarr" if stored else None
    with pytest.raises(BrokenChainsError, match="`error.tree`") as raised:
        ONE_CALL[name](**R, loss_fn=breaking, output_path=path)
    tree, message = raised.value.tree, str(raised.value)
    states = np.asarray(tree["status/state"], dtype=object)[0].tolist()
    assert sorted(states) == ["diverged", "finished"], "one chain is whole"
    assert f"`error.tree.slt.{name}(chains='finished')` goes on" in message
    assert (str(path) in message) if stored else "`error.tree.to_zarr(path)` saves it" in message
    result = compute_llc(tree, chains="finished")
    assert result.attrs["chains_used"] == [states.index("finished")]
    assert np.isfinite(result["llc_mean"])
    if not stored:
        tree.to_zarr(tmp_path / "kept.zarr")
        again = devinterp.open(tmp_path / "kept.zarr")
        assert compute_llc(again, chains="finished")["llc_mean"] == result["llc_mean"]
        with pytest.raises(BrokenChainsError, match="diverged"):
            again.slt.llc()


@pytest.mark.filterwarnings("ignore::devinterp.errors.DivergenceWarning")
def test_where_no_chain_finished_none_is_offered():
    with pytest.raises(BrokenChainsError) as raised:
        llc(make(), ids(), **{**R, "lr": 1e30})
    assert "chains='finished'" not in str(raised.value)
    assert "sample again with a smaller `lr`" in str(raised.value)
    assert raised.value.tree["status/state"].shape == (1, 2)


def test_an_analysis_of_a_tree_has_no_tree_to_carry():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        tree = run(loss_fn=breaking)
    with pytest.raises(BrokenChainsError) as raised:
        tree.slt.llc()
    assert raised.value.tree is None


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_run_in_memory_that_is_ended_hands_on_what_it_has(kind, tmp_path):
    calls = []

    def loss_fn(model, batch):
        calls.append(1)
        if len(calls) == 40:
            raise kind("the end")
        return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")

    with pytest.raises(kind, match="the end") as raised:
        run(loss_fn=loss_fn, num_draws=20)
    tree: Any = raised.value.tree
    assert any("`error.tree.to_zarr(path)` saves it" in note for note in raised.value.__notes__)
    done = tree["status/steps_done"].to_numpy()[0]
    assert done[0] == 20
    assert done[1] < 20
    assert np.isfinite(compute_llc(tree, chains="finished")["llc_mean"])
    tree.to_zarr(tmp_path / "kept.zarr")
    assert devinterp.open(tmp_path / "kept.zarr")["status/state"].to_numpy()[0, 0] == "finished"


def test_an_error_before_anything_was_sampled_is_plain():
    def loss_fn(model, batch):
        raise RuntimeError("wrong from the start")

    with pytest.raises(RuntimeError, match="wrong from the start") as raised:
        run(loss_fn=loss_fn)
    assert not hasattr(raised.value, "tree")


# -- what makes a loss the same ---------------------------------------------------------------------------------------


def counting(temperature=1.0):
    """Return a loss that counts its calls, and a way to change what it depends on."""
    calls, log = [0], {"last": None}

    def loss_fn(model, batch):
        calls[0] += 1
        losses = F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none") * temperature
        log["last"] = losses.detach()
        return losses

    def change(value):
        nonlocal temperature
        temperature = value

    return loss_fn, change


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch):
        self.calls += 1
        return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")

    def method(self, model, batch):
        return self(model, batch)


CALLS = 0


def counts_in_its_module(model, batch):
    global CALLS
    CALLS += 1
    return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")


@pytest.mark.parametrize(
    "make_loss", [lambda: counting()[0], Counter, lambda: Counter().method, lambda: counts_in_its_module]
)
def test_a_loss_that_counts_its_calls_extends_its_own_run(make_loss, tmp_path):
    loss_fn = make_loss()
    for num_draws in (2, 4, 5):
        tree = run(loss_fn=loss_fn, output_path=tmp_path / "run.zarr", num_draws=num_draws)
    assert tree.sizes["draw"] == 5
    np.testing.assert_array_equal(tree["trace/loss"], run(loss_fn=make_loss(), num_draws=5)["trace/loss"])


def test_another_function_of_the_same_source_extends_it_too(tmp_path):
    run(loss_fn=counting()[0], output_path=tmp_path / "run.zarr", num_draws=2)
    assert run(loss_fn=counting()[0], output_path=tmp_path / "run.zarr", num_draws=3).sizes["draw"] == 3


def test_what_a_user_changes_makes_another_loss(tmp_path):
    loss_fn, change = counting()
    run(loss_fn=loss_fn, output_path=tmp_path / "run.zarr")
    change(2.0)
    with pytest.raises(
        StoreMismatchError, match=r"of `loss_fn` .*`temperature`.* changed. If the loss is the same"
    ) as raised:
        run(loss_fn=loss_fn, output_path=tmp_path / "run.zarr", num_draws=5)
    change(1.0)
    assert run(loss_fn=loss_fn, output_path=tmp_path / "run.zarr", num_draws=5).sizes["draw"] == 5
    # The way out that the message gives.
    change(2.0)
    name = str(raised.value).split("loss_id='")[1].split("'")[0]
    assert run(loss_fn=loss_fn, output_path=tmp_path / "run.zarr", num_draws=6, loss_id=name).sizes["draw"] == 6


def test_a_loss_by_its_name(tmp_path):
    first, second = counting(1.0)[0], counting(3.0)[0]
    run(loss_fn=first, output_path=tmp_path / "run.zarr", loss_id="mine")
    assert run(loss_fn=second, output_path=tmp_path / "run.zarr", loss_id="mine", num_draws=5).sizes["draw"] == 5
    with pytest.raises(StoreMismatchError, match="say so with loss_id='mine'"):
        run(loss_fn=first, output_path=tmp_path / "run.zarr", num_draws=6)


def test_a_notebook_cell_that_samples_twice(tmp_path):
    """A closure over a model and a list that grows, as in notebooks."""
    history = []

    def loss_fn(model, batch):
        losses = F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")
        history.append(float(losses.detach().mean()))
        return losses

    for num_draws in (2, 3):
        tree = sample(
            make(), ids(), loss_fn=loss_fn, output_path=tmp_path / "run.zarr", **{**R, "num_draws": num_draws}
        )
    assert tree.sizes["draw"] == 3


def growing(largest, of):
    """Return a loss in float64 that grows with a weight, from below `largest` at w0 to beyond it after some steps."""

    def loss_fn(model, batch):
        # At w0 half of the limit; beyond it once the first bias has moved by a step's noise or so.
        moved = (model.head.bias[0].detach().double() - of).abs()
        return 0.5 * largest * torch.exp(1000 * moved) + losses_of(model, batch).double()

    return loss_fn


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3.4028e38), ("float16", 65504.0)])
def test_a_loss_that_the_store_cannot_hold_ends_its_chain(chains, dtype, largest, tmp_path):
    """It is finite in float64, and would be stored as infinite."""
    path = tmp_path / "run.zarr"
    settings = {"lr": 1e-6, "n_beta": 0.0, "num_draws": 12, "loss_dtype": dtype, "chains": chains, "progress": False}
    small = {"num_chains": 2, "batch_size": 4, "num_init_loss_batches": 1, "num_steps_bw_draws": 1}
    loss = growing(largest, make().head.bias[0].item())
    with pytest.warns(DivergenceWarning, match=r"the minibatch loss is \S+, beyond the largest number that is stored"):
        tree = sample(make(), ids(), loss_fn=loss, output_path=path, **settings, **small)
    assert "diverged" in tree["status/state"].values
    assert not np.isinf(tree["trace/loss"]).any()
    assert list(check(LocalStore(path))) == []


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3.4028e38), ("float16", 65504.0)])
def test_a_loss_at_w0_that_the_store_cannot_hold_is_refused(dtype, largest, tmp_path):
    with pytest.raises(InvalidInputError, match="at the starting weights is not finite.*cannot be stored"):
        sample(
            make(),
            ids(),
            loss_fn=growing(3 * largest, make().head.bias[0].item()),
            output_path=tmp_path / "run.zarr",
            lr=1e-6,
            n_beta=1.0,
            num_draws=2,
            num_chains=1,
            batch_size=4,
            loss_dtype=dtype,
        )
    assert not list(tmp_path.iterdir())
