"""Restrictions as a dimension, the prior, divergence, and where a run is written."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.torch_version import TorchVersion
from zarr.storage import MemoryStore

import devinterp
from devinterp import schema
from devinterp.errors import (
    BrokenChainsError,
    DivergenceWarning,
    InvalidInputError,
    StoreError,
    StoreMismatchError,
)
from devinterp.sampling.chains import loop
from devinterp.slt.llc import llc
from support.layouts import ALONG, AT_W0, IN_BOX, MOMENTS, RECORDED, paths_of_schema
from support.small_models import Noisy, TinyModel, WithLogits, ids, make, run, same_numbers


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")


def is_step(batch):
    """Say whether a loss is for a step of a chain: with a gradient, of a whole minibatch."""
    return torch.is_grad_enabled() and len(batch) == 4


def head_masks():
    columns = torch.zeros(23, 6, dtype=torch.bool)
    columns[:, :3] = True
    scattered = torch.zeros(6, 6, dtype=torch.bool)
    scattered[[0, 2, 5], [1, 1, 4]] = True
    return {"head.weight": columns, "mix.weight": scattered, "mix.bias": True}


# -- restrictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
@pytest.mark.parametrize("init_noise", [None, 0.01])
def test_restrictions_in_one_run_are_separate_runs(chains, init_noise):
    restrictions = {"full": None, "head": head_masks(), "bias": {"head.bias": None}}
    # Whether the losses at w0 are recorded is decided from the gradients of all restrictions together: here always.
    options: dict = {"observables": {"code": ids("code")}, "save_metrics": True, "paired": True}
    options |= {"chains": chains, "init_noise": init_noise}
    together = run(weight_restrictions=restrictions, **options)
    assert together["trace/loss"].sizes["restriction"] == 3
    assert together["restriction"].to_numpy().tolist() == ["full", "head", "bias"]
    assert together["num_moving"].to_numpy().tolist() == [341, 23 * 3 + 3 + 6, 23]
    for name, masks in restrictions.items():
        alone = run(weight_restrictions={name: masks}, **options)
        part = together.sel(restriction=[name])
        # Of several restrictions the sampled parameters of all are listed, those of others with no element.
        own = alone["metrics/parameter"].to_numpy()
        sizes = part["metrics/parameter_size"].to_series()
        assert set(sizes[sizes > 0].index.get_level_values("parameter")) == set(own)
        part["metrics"] = xr.DataTree(part["metrics"].to_dataset(inherit=False).sel(parameter=own))
        same_numbers(part, alone)
    found = together.slt.llc()
    assert found["llc_mean"].dims == ("restriction",)
    assert len(set(found["llc_mean"].to_numpy().tolist())) == 3


def test_param_masks_are_the_restriction():
    same = run(weight_restrictions={"x": head_masks()})["trace/loss"]
    np.testing.assert_array_equal(run(param_masks=head_masks())["trace/loss"], same)
    assert run()["restriction"].to_numpy().tolist() == ["full"]
    assert run(param_masks=head_masks())["restriction"].to_numpy().tolist() == ["custom"]


@pytest.mark.parametrize("kernel", ["sgld", "rmsprop_sgld"])
def test_only_masked_elements_move(kernel):
    model, moved = make(), {}

    def watching(model, batch):
        for name, parameter in model.named_parameters():
            change = (parameter.detach() != before[name]).numpy()
            moved[name] = moved.get(name, False) | change
        return loss_fn(model, batch)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(model, param_masks=head_masks(), loss_fn=watching, sampling_method=kernel, init_noise=0.1, num_draws=6)
    for name, mask in head_masks().items():
        expected = np.ones(before[name].shape, bool) if mask is True else mask.numpy()
        np.testing.assert_array_equal(moved[name], expected)
    assert not moved["embed.weight"].any()
    assert not moved["head.bias"].any()


def test_a_bounding_box_holds():
    model, furthest = make(), []

    def watching(model, batch):
        furthest.append(
            max(float((p.detach() - w).abs().max()) for p, w in zip(model.parameters(), before, strict=True))
        )
        return loss_fn(model, batch)

    before = [p.detach().clone() for p in model.parameters()]
    run(model, loss_fn=watching, bounding_box_size=0.05, lr=0.01, num_draws=10, num_chains=1)
    assert max(furthest) == pytest.approx(0.05, rel=1e-5)


# -- the prior --------------------------------------------------------------------------------------------------------


class Unused(TinyModel):
    """With weights that its output does not depend on."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.linspace(-1, 1, 3000))


def with_unused():
    model = Unused()
    model.load_state_dict(make().state_dict(), strict=False)
    return model.eval()


def weights_along_the_chains(model, names, *, loss_scale=1.0, **changes):
    """Return the weights of these names before each step of a run, ``(chain, step, weight)``, and at its start."""
    seen, options = [], {"num_chains": 2, "num_draws": 30, **changes}

    def watching(model, batch):
        if is_step(batch):
            seen.append(torch.cat([model.get_parameter(name).detach().flatten() for name in names]))
        return loss_scale * loss_fn(model, batch)

    start = torch.cat([model.get_parameter(name).detach().flatten().clone() for name in names])
    run(model, loss_fn=watching, chains="sequential", **options)
    return torch.stack(seen).view(options["num_chains"], options["num_draws"], -1).double(), start.double()


def follows_the_prior(weights, start, *, lr, localization, weight_decay):
    """Assert mean, variance and autocovariance at every step within five standard errors of the law without a gradient.

    Each weight is then an autoregression of coefficient ``1 - lr a / 2`` around the prior's mean, with
    ``a = localization + weight_decay``: from its start its variance grows to ``1 / (a (1 - lr a / 4))``.
    """
    a = localization + weight_decay
    rho, mean = 1 - lr * a / 2, start * localization / a
    steps = torch.arange(weights.shape[1], dtype=torch.float64)
    variance = (1 - rho ** (2 * steps)) / (a * (1 - lr * a / 4))
    residual = weights - mean - rho ** steps[:, None] * (start - mean)  # (chain, step, weight), of mean zero
    num = residual.shape[0] * residual.shape[2]
    tolerance = 5 * (2 / num) ** 0.5 * variance + 1e-12  # at the start all is exact but for rounding
    for along in (torch.ones_like(start), start):  # a pull to elsewhere shows along the start
        error = (variance * along.square().mean() / num).sqrt()
        assert ((residual * along).mean((0, 2)).abs() <= 5 * error + 1e-6).all()
    assert ((residual.square().mean((0, 2)) - variance).abs() <= tolerance).all()
    autocovariance = (residual[:, 1:] * residual[:, :-1]).mean((0, 2))
    assert ((autocovariance - rho * variance[:-1]).abs() <= tolerance[1:]).all()


@pytest.mark.parametrize(("kernel", "scale"), [("sgld", 1.0), ("rmsprop_sgld", 0.1)])
@pytest.mark.parametrize("weight_decay", [0.0, 3.0])
def test_a_parameter_the_loss_does_not_use_follows_its_prior(kernel, scale, weight_decay):
    """Also beside one that it uses. Without a gradient RMSprop's preconditioner is ``1 / eps``."""
    weights, start = weights_along_the_chains(
        with_unused(), ["spare"], param_masks={"spare": None, "mix.bias": None}, lr=0.1 * scale, localization=5.0, n_beta=1.0,
        llc_weight_decay=weight_decay, sampling_method=kernel,
    )  # fmt: skip
    follows_the_prior(weights, start, lr=0.1, localization=5.0, weight_decay=weight_decay)


def test_zero_temperature_samples_the_prior():
    """At ``n_beta = 0`` the loss has no part in it, although it depends on every weight."""
    model = make()
    names = [name for name, _ in model.named_parameters()]
    settings = {"n_beta": 0.0, "lr": 0.1, "localization": 5.0, "num_chains": 40, "num_draws": 16}
    weights, start = weights_along_the_chains(model, names, loss_scale=1e3, **settings)
    follows_the_prior(weights, start, lr=0.1, localization=5.0, weight_decay=0.0)


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_a_restriction_the_loss_does_not_use_at_all(chains):
    """Its gradient is zero: the chain follows the prior, and no loss moves."""
    tree = run(with_unused(), save_metrics=True, param_masks={"spare": None}, num_draws=3, chains=chains)
    assert (tree["metrics/unscaled_grad"] == 0).all()
    assert (tree["metrics/distance"][..., 1:] > 0).all()
    rows, losses = tree["trace/sequence_id"].to_numpy(), tree["trace/loss"][0].to_numpy()
    expected = loss_fn(make(), ids()).detach().numpy()[rows]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


# -- divergence -------------------------------------------------------------------------------------------------------


def diverging(step, chain, num_chains=3):
    """Return a loss that becomes infinite at one step of one chain of a run without observables."""
    calls = {"gradient": 0}

    def fail(model, batch):
        losses = loss_fn(model, batch)
        if is_step(batch):
            n = calls["gradient"]
            calls["gradient"] += 1
            if (n // 8, n % 8) == (chain, step):
                return losses * torch.inf
        return losses

    return fail


@pytest.mark.parametrize("output", [None, "run.zarr"])
def test_a_diverged_chain_is_recorded_and_the_others_finish(output, tmp_path):
    path = None if output is None else tmp_path / output
    with pytest.warns(DivergenceWarning, match=r"1 of 3 chains diverged.*\n.*restriction 0, chain 1: step 4: the mini"):
        tree = run(num_chains=3, num_draws=8, loss_fn=diverging(4, 1), output_path=path)
    status = tree["status"]
    assert status["state"].to_numpy().tolist() == [["finished", "diverged", "finished"]]
    assert status["steps_done"].to_numpy().tolist() == [[8, 4, 8]]
    assert status["error"].to_numpy().tolist() == [["", "step 4: the minibatch loss is not finite", ""]]
    assert np.isfinite(tree["trace/loss"][0, [0, 2]]).all()
    assert np.isfinite(tree["trace/loss"][0, 1, :4]).all()
    assert np.isnan(tree["trace/loss"][0, 1, 4:]).all()
    with pytest.raises(BrokenChainsError, match=r"chain 1: diverged.*step 4"):
        tree.slt.llc()
    found = tree.slt.llc(chains="finished")
    assert found.attrs["chains_used"] == [0, 2]
    sound = run(num_chains=3, num_draws=8)
    expected = sound.isel(chain=[0, 2]).slt.llc()["llc_mean"]
    np.testing.assert_allclose(found["llc_mean"], expected, rtol=1e-5)


@pytest.mark.parametrize("record", ["token", "sequence", "moments"])
@pytest.mark.parametrize("step", [0, 4])
def test_a_chain_may_diverge_at_the_first_step_that_is_handed_over(step, record, monkeypatch):
    """A slow machine hands every step over by itself; then nothing but the error is left of the last one."""
    monkeypatch.setattr(loop, "_MAX_BLOCK_SECONDS", 0.0)
    with pytest.warns(DivergenceWarning, match=f"1 of 3 chains diverged.*\n.*chain 1: step {step}: the mini"):
        tree = run(num_chains=3, num_draws=8, loss_fn=diverging(step, 1), record=record)
    assert tree["status"]["steps_done"].to_numpy().tolist() == [[8, step, 8]]


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_weights_that_explode(chains):
    with pytest.warns(DivergenceWarning, match="2 of 2 chains diverged"):
        tree = run(lr=1e4, localization=1e6, num_draws=60, observables={"code": ids("code")}, chains=chains)
    assert set(tree["status/state"].to_numpy().ravel()) == {"diverged"}
    for chain, done in enumerate(tree["status/steps_done"].to_numpy()[0]):
        trace = tree["trace/loss"][0, chain]
        assert 0 < done < 60
        assert np.isfinite(trace[:done]).all()
        assert np.isnan(trace[done:]).all()
        assert np.isfinite(tree["observables/code/loss"][0, chain, : done - 1]).all()
        assert np.isnan(tree["observables/code/loss"][0, chain, done:]).all()


def test_an_observable_that_diverges_names_itself():
    def fail(model, batch):
        losses = loss_fn(model, batch)
        moved = bool((model.mix.bias.detach() != make().mix.bias).any())
        return losses * torch.inf if moved and not torch.is_grad_enabled() else losses

    with pytest.warns(DivergenceWarning, match="step 2, draw 0: the loss of observable 'code' is not finite"):
        run(loss_fn=fail, observables={"code": ids("code")}, num_burnin_steps=2)


def test_one_call_refuses_too():
    with (
        pytest.warns(DivergenceWarning, match="4 of 4 chains diverged"),
        pytest.raises(BrokenChainsError, match="chain 0: diverged"),
    ):
        llc(make(), ids(), lr=1e4, n_beta=1.0, localization=1e6, num_draws=60, batch_size=4)


# -- the store of a run -----------------------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


OPTIONS = {"observables": {"code": (ids("code"), 2), "naïve name.v2": ids("web")}, "save_metrics": True}


def test_memory_and_disk_hold_the_same(tmp_path):
    in_memory, on_disk = run(**OPTIONS), run(**OPTIONS, output_path=tmp_path / "run.zarr")
    same_numbers(in_memory, on_disk)
    assert devinterp.open(tmp_path / "run.zarr", eager_bytes=0)["trace/loss"].chunks is not None
    assert on_disk["trace/loss"].chunks is in_memory["trace/loss"].chunks is None
    same_numbers(devinterp.open(tmp_path / "run.zarr"), on_disk)
    same_numbers(run(**OPTIONS, output_path=str(tmp_path / "deep" / "er" / "run.zarr")), on_disk)
    store = MemoryStore()
    same_numbers(run(**OPTIONS, output_path=store), on_disk)
    same_numbers(devinterp.open(store), on_disk)


def test_a_store_in_object_storage():
    pytest.importorskip("fsspec")
    tree = run(**OPTIONS, output_path="memory://runs/one.zarr")
    same_numbers(tree, run(**OPTIONS))
    same_numbers(devinterp.open("memory://runs/one.zarr"), tree)


def test_provenance_says_where_a_huggingface_model_came_from():
    model = make()
    assert json.loads(run(model, **OPTIONS).attrs["provenance"])["name_or_path"] == ""
    model.name_or_path = "checkpoints/step-1000"
    assert json.loads(run(model, **OPTIONS).attrs["provenance"])["name_or_path"] == "checkpoints/step-1000"


def test_plain_xarray_reads_it(tmp_path):
    tree = run(**OPTIONS, output_path=tmp_path / "run.zarr")
    plain = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", chunks={})
    same_numbers(plain, tree)
    assert paths_of_schema(plain) == set(schema.DIMS) - MOMENTS - AT_W0 - IN_BOX - ALONG - RECORDED
    assert set(plain["trace"].coords) >= {"restriction", "chain", "step", "position"}
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("devinterp", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import xarray as xr
tree = xr.open_datatree(sys.argv[1], engine="zarr", chunks={})
loss = tree["observables/code/loss"]
assert loss.dims == ("restriction", "chain", "draw", "sequence", "position"), loss.dims
print(float(loss.mean()), sorted(tree["observables"].children))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run.zarr"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[0]) == pytest.approx(float(tree["observables/code/loss"].mean()), rel=1e-6)
    assert "naïve name.v2" in done.stdout


def test_a_finished_run_is_returned_without_sampling(tmp_path):
    path = tmp_path / "run.zarr"
    first = run(**OPTIONS, output_path=path)
    before = contents(path)

    def refuse(*args, **kwargs):
        raise AssertionError("a chain was run")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", refuse)
        same_numbers(run(**OPTIONS, output_path=path), first)
    assert contents(path) == before


def test_a_diverged_run_is_returned_too(tmp_path):
    options = {"lr": 1e4, "localization": 1e6, "num_draws": 40, "output_path": tmp_path / "run.zarr"}
    with pytest.warns(DivergenceWarning, match="2 of 2 chains diverged"):
        first = run(**options)
    with pytest.warns(DivergenceWarning, match="2 of 2 chains diverged"):
        same_numbers(run(**options), first)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_goes_on(error, tmp_path):
    path, calls = tmp_path / "run.zarr", count(1)

    def interrupted(model, batch):
        if is_step(batch) and next(calls) == 6:
            raise error("stop")
        return loss_fn(model, batch)

    with pytest.raises(error, match="stop"):
        run(loss_fn=interrupted, output_path=path, observables={"code": ids("code")})
    half = devinterp.open(path)
    assert half["status/state"].to_numpy().tolist() == [["finished", "interrupted"]]
    assert np.isfinite(half["trace/loss"][0, 0]).all()
    with pytest.raises(BrokenChainsError, match="interrupted"):
        half.slt.llc()
    whole = run(loss_fn=interrupted, output_path=path, observables={"code": ids("code")})
    assert set(whole["status/state"].to_numpy().ravel()) == {"finished"}
    same_numbers(whole, run(loss_fn=loss_fn, observables={"code": ids("code")}))


def scaled(model, batch, scale):
    return scale * loss_fn(model, batch)


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, model, batch):
        return scaled(model, batch, self.scale)

    def method(self, model, batch):
        return self(model, batch)


def with_default(scale):
    return lambda model, batch, scale=scale: scaled(model, batch, scale)


def with_closure(scale):
    return lambda model, batch: scaled(model, batch, scale)


def with_function(scale):
    inner = partial(scaled, scale=scale)
    return lambda model, batch: inner(model, batch)


def with_array(scale):
    held = {"scale": [np.array(scale)]}
    return lambda model, batch: scaled(model, batch, float(held["scale"][0]))


TEMPERATURE = 1.0


def with_global(scale):
    def loss(model, batch):
        return scaled(model, batch, TEMPERATURE)

    globals()["TEMPERATURE"] = scale
    return loss


def with_module(scale):
    reference = make()
    with torch.no_grad():
        reference.head.bias.mul_(scale)

    def loss(model, batch):
        return loss_fn(model, batch) + 0 * loss_fn(reference, batch)

    return loss


LOSSES = {
    "global": with_global,
    "module in a closure": with_module,
    "partial": lambda scale: partial(scaled, scale=scale),
    "object": Scaled,
    "method": lambda scale: Scaled(scale).method,
    "default": with_default,
    "closure": with_closure,
    "function in a closure": with_function,
    "array in a closure": with_array,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_known_by_what_it_holds(kind, tmp_path):
    path = tmp_path / "run.zarr"
    first = run(loss_fn=LOSSES[kind](1.0), output_path=path, num_draws=1)
    same_numbers(run(loss_fn=LOSSES[kind](1.0), output_path=path, num_draws=1), first)
    with pytest.raises(StoreMismatchError, match="loss: the store has"):
        run(loss_fn=LOSSES[kind](2.0), output_path=path, num_draws=1)


def other_weights(kind=TinyModel):
    model = make(kind)
    with torch.no_grad():
        model.head.bias[0] += 1e-3
    return model


def changed_rows(name="train"):
    found = ids(name)
    found[:, 4] = 0
    return found


def in_train_mode():
    return make(Noisy).train()


@pytest.mark.parametrize("training", [False, True])
def test_buffers_that_change_while_running_do_not_make_it_another_run(training, tmp_path):
    model = make(Noisy).train(training)
    first = run(model, output_path=tmp_path / "run.zarr")
    same_numbers(run(model, output_path=tmp_path / "run.zarr"), first)


CHANGES = {
    "weights": (lambda: {"model": other_weights()}, "weights"),
    "dtype": (lambda: {"model": make(dtype=torch.float64)}, "weights"),
    "class": (lambda: {"model": make(WithLogits)}, "model"),
    "dataset": (lambda: {"dataset": changed_rows()}, "dataset"),
    "longer dataset": (lambda: {"dataset": torch.cat([ids(), ids()])}, "dataset"),
    "loss": (lambda: {"loss_fn": loss_fn}, "loss"),
    "observable rows": (lambda: {"observables": {"code": changed_rows("code")}}, r"observables\.code"),
    "observable names": (lambda: {"observables": {"other": ids("code")}}, r"observables\.other"),
    "observable size": (
        lambda: {"observables": {"code": (ids("code"), 2)}},
        r"observables\.code: the store has 4, this run 8",
    ),
    "no observables": (lambda: {"observables": None}, r"observables\.code"),
    "masks": (lambda: {"weight_restrictions": {"full": {"head.bias": None}}}, r"masks\.full"),
    "names of restrictions": (lambda: {"weight_restrictions": {"whole": None}}, "weight_restrictions"),
    "order of masks": (
        lambda: {"weight_restrictions": {"full": dict.fromkeys(reversed([n for n, _ in make().named_parameters()]))}},
        r"masks\.full",
    ),
    "lr": (lambda: {"lr": 2e-3}, r"config\.lr: the store has 0\.001, this run 0\.002"),
    "n_beta": (lambda: {"n_beta": 21}, r"config\.n_beta: the store has 20\.0, this run 21"),
    "localization": (lambda: {"localization": 6.0}, r"config\.localization"),
    "kernel": (
        lambda: {"sampling_method": "rmsprop_sgld"},
        r"config\.sampling_method: the store has \"sgld\", this run",
    ),
    "burn-in": (lambda: {"num_burnin_steps": 1}, r"config\.num_burnin_steps"),
    "seed": (lambda: {"init_seed": 1}, r"config\.init_seed"),
    "obs_seed": (lambda: {"obs_seed": 1}, r"config\.obs_seed"),
    "shuffle": (lambda: {"shuffle": False}, r"config\.shuffle"),
    "metrics": (lambda: {"save_metrics": True}, r"config\.save_metrics"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "run.zarr"
    run(observables={"code": ids("code")}, output_path=path)
    return path


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused_and_the_store_left_alone(name, written):
    make_change, message = CHANGES[name]
    before = contents(written)
    with pytest.raises(StoreMismatchError, match=rf"(?s)run\.zarr holds another run.*What differs:.*{message}"):
        run(**{"observables": {"code": ids("code")}, "output_path": written, **make_change()})
    assert contents(written) == before


def test_only_what_differs_is_named(written):
    with pytest.raises(StoreMismatchError, match=r"config\.lr") as caught:
        run(observables={"code": ids("code")}, output_path=written, lr=2e-3)
    assert len(str(caught.value).splitlines()) == 2


def test_the_mode_of_the_model_is_part_of_the_run(tmp_path):
    run(make(Noisy), output_path=tmp_path / "run.zarr")
    with pytest.raises(
        StoreMismatchError, match=r"model: the store has .Noisy in eval mode., this run .Noisy in train mode."
    ):
        run(in_train_mode(), output_path=tmp_path / "run.zarr")


@pytest.mark.parametrize("name", ["sgmcmc_sgld", "sgld"])
def test_an_alias_of_the_kernel_is_the_same_run(name, written):
    before = contents(written)
    run(observables={"code": ids("code")}, output_path=written, sampling_method=name)
    assert contents(written) == before


def test_progress_and_format_are_no_part_of_the_run(written):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"input_ids": ids().tolist()})
    before = contents(written)
    run(dataset=table, observables={"code": ids("code").numpy()}, output_path=written, progress=True)
    assert contents(written) == before


def test_a_file_a_foreign_directory_and_no_permission(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file is a file; a store is a directory: choose another path"):
        run(output_path=tmp_path / "file")
    with pytest.raises(StoreError, match=r"cannot write to .*file.*below.*Choose another path"):
        run(output_path=tmp_path / "file" / "below")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("important")
    with pytest.raises(StoreError, match="foreign is not empty and holds no run of this package: choose another path"):
        run(output_path=tmp_path / "foreign")
    assert contents(tmp_path / "foreign") == {"thesis.tex": b"important"}
    xr.Dataset({"x": 1}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    before = contents(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="holds no run of this package"):
        run(output_path=tmp_path / "other.zarr")
    assert contents(tmp_path / "other.zarr") == before
    # A superuser may write everywhere but where the kernel says no.
    if Path("/proc/sys").exists():
        with pytest.raises(StoreError, match=r"cannot write to /proc/sys/run\.zarr.*Choose another path"):
            run(output_path="/proc/sys/run.zarr")
    (tmp_path / "empty").mkdir()
    run(output_path=tmp_path / "empty")


def test_what_a_run_says_of_itself(monkeypatch):
    # As a CUDA build says of itself, while its metadata have the number alone.
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.13.0+cu130"))
    tree = run(**OPTIONS, sampling_method="rmsprop_sgld", rmsprop_eps=0.2)
    config = json.loads(tree.attrs["config"])
    assert config["lr"] == 1e-3
    assert config["sampling_method"] == "rmsprop_sgld"
    assert config["sampling_method_kwargs"] == {"eps": 0.2}
    assert config["observables"] == {"code": 8, "naïve name.v2": 4}
    provenance = json.loads(tree.attrs["provenance"])
    assert provenance["packages"]["torch"] == "2.13.0+cu130"
    assert {"devinterp", "numpy", "xarray", "zarr"} <= set(provenance["packages"])
    assert provenance["packages"]["numpy"] == np.__version__
    assert schema.observable_names(tree) == ["code", "naïve name.v2"]


def test_progress_bars(capsys):
    run(progress=True, observables={"code": ids("code")}, num_burnin_steps=3)
    shown = capsys.readouterr().err
    assert "chain 0" in shown
    assert "chain 1" in shown
    assert "7/7" in shown
    assert "LLC" in shown
    run(progress=False)
    run()
    assert capsys.readouterr() == ("", "")


def test_nothing_to_be_done_with_bad_input(tmp_path):
    with pytest.raises(InvalidInputError, match=r"`lr` \(=-1\.0\) must be positive"):
        run(lr=-1.0, output_path=tmp_path / "a" / "run.zarr")
    assert list(tmp_path.iterdir()) == []
