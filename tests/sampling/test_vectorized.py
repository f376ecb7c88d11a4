"""Chains side by side are the chains one after the other, and which way was taken is recorded with its reason."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import plugins, sample
from devinterp.errors import InvalidInputError
from devinterp.sampling.engines import vectorization, vectorized
from support import model_zoo as zoo
from support.engines import OTHER, TOKENS, paths_of
from support.small_models import VOCABULARY, TinyModel, ids, make, run, same_numbers, snapshot

#: A rounding error of float32, 6e-8, of each matrix product; six draws at these steps multiply it by less than a thousand.
#: Losses of one run differ from chain to chain by a hundred times as much.
RTOL = 1e-4
DRAWS = 6
KERNELS = (
    "sgld",
    "rmsprop_sgld",
    "sghmc",
    "sgnht",
    "leimkuhler_matthews",
    "baoab",
    "rmsprop_leimkuhler_matthews",
    "rmsprop_baoab",
)


def both(model=None, **changes):
    """Return a run with chains one after the other and one with chains side by side, after comparing them."""
    model = make() if model is None else model
    before = snapshot(model)
    options = {
        "observables": {"code": ids("code")},
        "save_metrics": True,
        "num_chains": 3,
        "num_draws": DRAWS,
        **changes,
    }
    one, other = (run(model, chains=chains, **options) for chains in ("sequential", "vectorized"))
    assert snapshot(model) == before
    compare(one, other)
    return one, other


def compare(one, other, rtol=RTOL):
    """Assert that every chain is the same, and that chains are told apart."""
    for path in ["trace/loss", *(f"observables/{name}/loss" for name in one["observables"].children)]:
        a, b = one[path].to_numpy(), other[path].to_numpy()
        np.testing.assert_allclose(b, a, rtol=rtol, err_msg=path)
        assert np.isnan(a).mean() < 1
        last = a[:, :, -1].reshape(a.shape[1], -1) if a.shape[0] == 1 else None
        if last is not None and len(last) > 1:
            assert np.nanmax(np.abs(last[0] / last[1] - 1)) > 20 * rtol
    np.testing.assert_allclose(other["metrics/distance"], one["metrics/distance"], rtol=rtol)


def test_every_kernel_of_this_package_is_tried():
    assert {kernel.name for kernel in plugins.kernels().values()} == set(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matched", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_chain_by_chain(kernel, matched):
    one, other = both(sampling_method=kernel, match_sampling_input_ids_across_chains=matched)
    same = np.array_equal(one["trace/sequence_id"][0], one["trace/sequence_id"][1])
    assert same == matched
    assert paths_of(one)["chains/full"] == "sequential: asked for"
    assert paths_of(other)["chains/full"] == "vectorized: asked for"


MASKS = {
    "full": None,
    "elements": {"head.weight": torch.arange(VOCABULARY * 6).view(VOCABULARY, 6) % 5 == 0},
    "block": {"mix.weight": torch.arange(6)[:, None].expand(6, 6) < 2, "mix.bias": None},
    "rows": {"embed.weight": torch.arange(VOCABULARY)[:, None].expand(VOCABULARY, 6) % 2 == 0, "head.bias": None},
}


@pytest.mark.parametrize("kernel", ["sgld", pytest.param("rmsprop_sgld", marks=pytest.mark.slow)])
def test_under_restrictions(kernel):
    one, other = both(sampling_method=kernel, weight_restrictions=MASKS)
    assert [int(n) for n in one["num_moving"]] == [int(n) for n in other["num_moving"]]
    for name in MASKS:
        assert paths_of(other)[f"chains/{name}"] == "vectorized: asked for"
        assert paths_of(one)[f"prefix/{name}"] == paths_of(other)[f"prefix/{name}"]


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 3},
        {"gradient_accumulation_steps": 2, "match_sampling_input_ids_across_chains": False},
        {"init_noise": 0.02},
        {"bounding_box_size": 0.03},
        {"llc_weight_decay": 0.5, "num_burnin_steps": 3, "num_steps_bw_draws": 2},
        {"save_metrics": ["distance", "mala_acceptance"]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_with_other_settings(changes):
    one, other = both(**changes)
    for name in one["metrics"].data_vars:
        np.testing.assert_allclose(other["metrics"][name], one["metrics"][name], rtol=10 * RTOL, atol=1e-6)


class Padded(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


@pytest.mark.parametrize("matched", [True, False])
def test_of_padded_text(matched):
    mask = torch.ones_like(ids())
    mask[::2, 5:] = 0
    mask[1, 2:] = 0
    data = {"input_ids": ids(), "attention_mask": mask}
    both(make(Padded), dataset=data, observables={"same": data}, match_sampling_input_ids_across_chains=matched)


def test_in_double_precision_only_logits_are_rounded():
    """What differs in float32 is rounding: here only logits are float32, and losses differ in their last bits."""
    one, other = (
        run(make(dtype=torch.float64), chains=chains, num_draws=3 * DRAWS, num_chains=3, lr=1e-2)
        for chains in ("sequential", "vectorized")
    )
    np.testing.assert_allclose(one["trace/loss"], other["trace/loss"], rtol=6e-7)


@pytest.mark.parametrize(
    ("model_type", "where"),
    [
        ("gpt_neox", "full"),
        ("llama", "l1"),
        ("opt", "full"),
        *(pytest.param(t, "full", marks=pytest.mark.slow) for t in ("llama", "gemma2", "cohere", "mamba", "phi")),
        *(pytest.param(t, "l1", marks=pytest.mark.slow) for t in ("gpt_neox", "gemma2", "opt")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of other people's code
def test_of_transformers_models(model_type, where):
    model = zoo.build(model_type, "plain")
    before = snapshot(model)
    settings = {
        "lr": 1e-5, "n_beta": 10.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 1,
        "save_metrics": True, "progress": False, "match_sampling_input_ids_across_chains": False,
        "weight_restrictions": {where: None if where == "full" else where},
    }  # fmt: skip
    modes = ("sequential", "vectorized")
    one, other = (sample(model, TOKENS, {"other": (OTHER, 1)}, chains=mode, **settings) for mode in modes)
    assert snapshot(model) == before
    compare(one, other)
    assert paths_of(one)["loss"] == "chunked"  # and side by side it is the plain one: two ways agree


class Attending(TinyModel):
    """Attends where sequences are longer than a few tokens."""

    def forward(self, ids):
        hidden = torch.tanh(self.mix(self.embed(ids)))
        heads = hidden[:, None]
        if ids.shape[1] > 5:
            heads = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return self.head(heads[:, 0])


@pytest.mark.parametrize(("kind", "entered"), [(TinyModel, 2), (Attending, 1 + DRAWS)])
def test_attention_is_looked_for_where_a_model_attends(kind, entered, monkeypatch):
    """Minibatches attend and a short observable does not: the first batch of each shape tells."""
    calls = []

    class Seen(vectorized.FoldedAttention):
        def __enter__(self):
            calls.append(torch.is_grad_enabled())
            return super().__enter__()

    monkeypatch.setattr(vectorized, "FoldedAttention", Seen)
    short = ids("code")[:, :4]
    both(make(kind), observables={"short": short})
    of_run = len(calls) - calls.index(True)
    model = make(kind)
    calls.clear()
    run(model, observables={"short": short}, num_chains=3, num_draws=2 * DRAWS, chains="vectorized")
    longer = len(calls) - calls.index(True)
    assert longer - of_run == (DRAWS if entered > 2 else 0)


class Branching(TinyModel):
    """Looks at its numbers to decide what to do."""

    def forward(self, ids):
        return super().forward(ids) * (1 if float(self.head.weight.detach().sum()) > -1e9 else 2)


class Reaching(TinyModel):
    """Uses a weight behind the back of its module."""

    def __init__(self):
        super().__init__()
        self.reach = [self.mix.weight]

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids) @ self.reach[0].T + self.mix.bias))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Branching, "the model does not run under vmap"), (Reaching, "losses differ by .* under vmap")],
)
def test_models_of_which_chains_cannot_run_side_by_side(kind, reason):
    with pytest.raises(InvalidInputError, match=f"'vectorized'.*{reason}.*use 'sequential' or 'auto'"):
        run(make(kind), chains="vectorized")
    tree = run(make(kind), chains="auto")
    assert re.match(f"sequential: {reason}", paths_of(tree)["chains/full"])
    same_numbers(run(make(kind), chains="sequential"), tree)


def test_a_gradient_that_is_zero_but_for_rounding_is_no_difference():
    """A key's bias shifts all scores of a query alike."""

    class Attending(TinyModel):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, ids):
            hidden = self.embed(ids)
            scores = torch.softmax(self.query(hidden) @ self.key(hidden).transpose(1, 2), -1)
            return self.head(torch.tanh(self.mix(scores @ hidden)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attending().eval()
    both(model)


def timed(seconds):
    """Return a clock that gives these times, of all chains together and of one alone."""
    remaining = itertools.cycle(seconds)
    return lambda engine, rows: next(remaining)


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (1.0, "vectorized: side by side takes 0.50 of the time"),
        (4.0, "sequential: side by side takes 2.00 of the time"),
    ],
)
def test_fastest_takes_what_is_faster_and_says_by_how_much(together, expected, monkeypatch):
    monkeypatch.setattr(vectorization, "_seconds", timed([together, 1.0]))
    tree = run(chains="fastest", num_chains=2)
    assert paths_of(tree)["chains/full"] == expected
    same_numbers(tree, run(chains=expected.partition(":")[0], num_chains=2))


def test_the_choice_is_made_for_each_restriction(monkeypatch):
    monkeypatch.setattr(vectorization, "_seconds", timed([1.0, 1.0, 9.0, 1.0]))
    tree = run(chains="fastest", num_chains=2, weight_restrictions={"a": None, "b": {"head.bias": None}})
    words = [paths_of(tree)[f"chains/{name}"].partition(":")[0] for name in "ab"]
    assert words == ["vectorized", "sequential"]


@pytest.mark.parametrize(
    ("changes", "patch", "expected"),
    [
        ({"num_chains": 1}, {}, "sequential: one chain"),
        ({}, {"_MAX_VECTORIZED_PARAMETERS": 10}, r"sequential: 341 parameters keep the processor busy"),
    ],
)
def test_auto_does_not_try_where_nothing_is_to_be_gained(changes, patch, expected, monkeypatch):
    monkeypatch.setattr(vectorization, "_try", None)
    for name, value in patch.items():
        monkeypatch.setattr(vectorization, name, value)
    assert paths_of(run(chains="auto", **changes))["chains/full"] == expected


def test_the_choice_is_kept_with_the_run(tmp_path):
    run(chains="vectorized", output_path=str(tmp_path / "run"))
    found = json.loads((tmp_path / "run" / "zarr.json").read_text())["attributes"]["provenance"]
    assert json.loads(found)["paths"]["chains/full"] == "vectorized: asked for"
