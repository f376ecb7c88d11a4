"""Restrictions side by side meet all else a run can have: data of any kind, clipping, the virial, models that keep tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from devinterp.errors import InvalidInputError
from devinterp.sampling.data import placement
from devinterp.sampling.engines import vectorization
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.vectorization import Candidates, bytes_of_chain
from support.engines import paths_of, spec_of
from support.many_restrictions import HEADS, RTOL, both, compare, rows, same_draws
from support.small_models import VOCABULARY, WIDTH, Deep, Layer, deep, ids, run, same_numbers

pytestmark = pytest.mark.usefixtures("unchecked")

MATCHED = pytest.mark.parametrize("matched", [True, False], ids=["same-rows", "own-rows"])
LAST = {name: HEADS[name] for name in ("l2h0", "l2h1")}
LAYER_0 = {f"l0h{n}": rows(n, layer=0) for n in range(3)}


def labels():
    """Return labels of which some are -100: in even rows more than in odd ones."""
    chosen = ids().clone()
    chosen[:, :2] = -100
    chosen[::2, :5] = -100
    return chosen


def per_token(model, batch):
    tokens = batch["input_ids"]
    return functional.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_fn", "matched"), [(None, False), (per_token, True)], ids=["next-token-own-rows", "own-loss-same-rows"]
)
def test_labels_of_minus_100(loss_fn, matched):
    data = {"input_ids": ids(), "labels": labels()}
    options = {"match_sampling_input_ids_across_chains": matched, "gradient_accumulation_steps": 2, "loss_fn": loss_fn}
    _, other = both(dataset=data, observables={"code": data}, **options)
    masked = np.isnan(other["trace/loss"].to_numpy())
    is_even = np.broadcast_to(other["trace/sequence_id"].to_numpy() % 2 == 0, masked.shape[:-1])
    np.testing.assert_array_equal(masked[..., 1:4].all(-1), is_even)
    assert masked[..., 0].all()
    assert not masked[..., 4:].any()


def test_labels_where_the_unembedding_is_sampled():
    chosen = torch.arange(VOCABULARY)[:, None].expand(VOCABULARY, WIDTH)
    halves = {"even": {"head.weight": chosen % 2 == 0}, "odd": {"head.weight": chosen % 2 == 1}}
    halves = {name: {"head.weight": mask["head.weight"] & (chosen < 22)} for name, mask in halves.items()}
    data = {"input_ids": ids(), "labels": labels()}
    both(weight_restrictions=halves, dataset=data, observables={"code": data})


@MATCHED
def test_data_that_stay_on_the_host(matched, monkeypatch):
    class Copies(placement.HostCopies):
        taken = 0

        def _copied(self, selected):
            Copies.taken += 1
            return selected

    options = {"match_sampling_input_ids_across_chains": matched, "weight_restrictions": HEADS, "chains": "vectorized"}
    data = {"input_ids": ids(), "labels": labels()}
    expected = run(deep(), data, {"code": data}, **options)
    monkeypatch.setattr(placement.HostCopies, "for_rows", classmethod(lambda cls, device, num_bytes: Copies(device)))
    same_numbers(run(deep(), data, {"code": data}, **options), expected)
    assert Copies.taken


@pytest.mark.parametrize("heads", [["l1h0", "l1h1"], ["l0h0", "l0h1"]], ids=["after-a-layer", "whole-model"])
def test_text_behind_padding(heads):
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
            )
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)  # so that positions matter
    mask = torch.ones(24, 9, dtype=torch.long)
    mask[::2, :4] = 0
    data = {"input_ids": ids().clamp(min=2) * mask, "attention_mask": mask}
    _, other = both(model, dataset=data, observables={"code": data}, weight_restrictions=heads, lr=1e-4)
    paths = paths_of(other)
    assert paths["positions"] == "count tokens of text"
    assert paths[f"prefix/{heads[0]}"] == ("1 layers reused" if heads[0] == "l1h0" else "nothing to reuse")


def test_rows_with_texts_share_minibatches_or_are_refused():
    data = {"input_ids": ids(), "text": [f"row {n}" for n in range(24)]}
    both(dataset=data, observables={"code": data}, loss_fn=per_token)
    options = {"loss_fn": per_token, "weight_restrictions": HEADS, "match_sampling_input_ids_across_chains": False}
    with pytest.raises(InvalidInputError, match="parts that are no tensors cannot be stacked"):
        run(deep(), data, chains="vectorized", **options)


def test_embeddings_with_sparse_gradients():
    class Sparse(Deep):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH, sparse=True)

    chosen = torch.arange(VOCABULARY)[:, None].expand(VOCABULARY, WIDTH)
    parts = {name: {"embed.weight": (chosen >= first) & (chosen < first + 11)} for name, first in (("a", 0), ("b", 11))}
    both(deep(Sparse), weight_restrictions=parts)


# -- what is measured and done at steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"bounding_box_size": 0.03}, marks=pytest.mark.heavy),
        pytest.param({"llc_weight_decay": 2.0}, marks=pytest.mark.heavy),
        pytest.param({"init_noise": 0.02, "num_steps_bw_draws": 2}, marks=pytest.mark.heavy),
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_the_virial_is_that_of_each_restriction_and_chain(changes):
    one, other = both(**changes)
    names = ["virial", "virial_gradient", "virial_square", "draw_square", "parameter_virial"]
    names += ["virial_volume", "parameter_volume"] if "bounding_box_size" in changes else []
    for name in names:
        got, expected = (tree[f"metrics/{name}"].to_numpy() for tree in (other, one))
        assert got.shape[:3] == (6, 2, 6)
        # `both` allows for dot products that cancel; these must be told apart all the same.
        of_chains = np.nan_to_num(expected).reshape(12, -1)
        apart = [np.abs(a - b).max() for a, b in zip(of_chains, np.roll(of_chains, 1, 0), strict=True)]
        assert min(apart) > 20 * RTOL * np.nanmax(np.abs(expected)) or name in ("virial_volume", "parameter_volume")
    columns = list(other["metrics/parameter"].to_numpy())
    missing = np.isnan(other["metrics/parameter_virial"].to_numpy()).all((1, 2))
    for number, name in enumerate(HEADS):
        assert [columns[n] for n in np.flatnonzero(~missing[number])] == list(HEADS[name])


@pytest.mark.parametrize(("kernel", "matched"), [("sgld", True), ("rmsprop_sgld", False)])
def test_gradients_of_each_restriction_and_chain_are_clipped_alone(kernel, matched):
    options = {"sampling_method": kernel, "match_sampling_input_ids_across_chains": matched}
    one, _ = both(max_grad_norm=0.003, **options)
    free = run(deep(), weight_restrictions=HEADS, save_metrics=True, num_draws=6, **options)
    clipped = free["metrics/unscaled_grad"].to_numpy() > 0.003
    assert clipped.any()
    assert not clipped.all()  # one limit for all together would show
    assert not np.array_equal(one["trace/loss"], free["trace/loss"])


@pytest.mark.heavy
@pytest.mark.parametrize("record", ["token", "moments"])
def test_more_draws_from_kept_state_with_all_of_these(record, tmp_path):
    data = {"input_ids": ids(), "labels": labels()}
    options = {
        "weight_restrictions": HEADS, "max_grad_norm": 0.003, "chains": "vectorized", "record": record,
        "match_sampling_input_ids_across_chains": False,
    }  # fmt: skip
    path = tmp_path / "run.zarr"
    run(deep(), data, {"code": data}, **options, output_path=path, num_draws=3, keep_state=True)
    longer = run(deep(), data, {"code": data}, **options, output_path=path, num_draws=6, keep_state=True)
    whole = run(deep(), data, {"code": data}, **options, num_draws=6)
    same_draws(longer, whole)
    assert {"virial", "parameter_virial", "draw_square"} <= set(longer["metrics"].data_vars)


# -- models that keep tensors -------------------------------------------------------------------------------------------


class KeepsNothingUsed(Layer):
    """Keeps what it computed, and never reads it."""

    def forward(self, hidden):
        self.last = super().forward(hidden)
        return self.last


class ReadsTheLast(Deep):
    """Reads before its layers what the call before has left behind them."""

    left: torch.Tensor | None = None

    def body(self, hidden):
        before = 0.0 if self.left is None else 0.0 * self.left
        hidden = super().body(hidden + before)
        self.left = hidden.detach().mean()
        return hidden


def with_layers(kind):
    return type("Kept", (Deep,), {"Block": kind})


def test_activations_that_are_kept_and_not_read():
    model = deep(with_layers(KeepsNothingUsed))
    both(model)
    assert not any("last" in vars(layer) for layer in model.layers)


def test_what_is_kept_of_all_chains_and_read_by_a_run_of_one_is_found_out():
    """Constant layers are computed by the model itself: it would meet a tensor of all chains when they see new rows."""
    model = deep(ReadsTheLast)
    with pytest.raises(InvalidInputError, match="does not run under vmap"):
        run(model, weight_restrictions=LAST, chains="vectorized")
    assert "left" not in vars(model)
    options = {"weight_restrictions": LAST, "observables": {"code": ids("code")}}
    tree = run(model, chains="auto", **options)
    assert "does not run under vmap" in paths_of(tree)["chains/l2h0"]
    compare(run(deep(), **options), tree)


def test_what_is_kept_of_all_chains_and_read_by_all_is_no_harm():
    both(deep(ReadsTheLast), weight_restrictions=LAYER_0)


def test_what_is_kept_of_some_chains_is_put_back_before_others_run(monkeypatch):
    """Three chains of a restriction run together, then two."""
    spec = spec_of(deep(ReadsTheLast), ids(), LAYER_0, observables={})
    size = bytes_of_chain(spec, Candidates(("l0h0",), tuple(range(5))), SharedPrefix())
    monkeypatch.setattr(vectorization, "_HOST_BUDGET", 3 * size)
    _, other = both(deep(ReadsTheLast), weight_restrictions={"l0h0": LAYER_0["l0h0"]}, num_chains=5)
    assert "3 at a time for their memory" in paths_of(other)["chains/l0h0"]


def test_a_stopwatch_leaves_nothing_either():
    tree = run(deep(ReadsTheLast), weight_restrictions=LAYER_0, chains="fastest")
    assert "side by side takes" in paths_of(tree)["chains/l0h0"]


def test_rows_that_are_met_after_chains_have_run_side_by_side():
    """Constant layers see new rows between steps of all chains; with all rows in the first step they do not."""
    few, many = ({"weight_restrictions": LAST, "batch_size": size, "num_draws": 5} for size in (4, 24))
    for changes in (few, many):
        both(deep(with_layers(KeepsNothingUsed)), **changes)
