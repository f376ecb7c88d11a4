"""Restrictions that sample alike elements run side by side, as chains do, and give the numbers of each alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from devinterp.models.masks.mask import Mask
from devinterp.sampling.engines import vectorization
from devinterp.sampling.engines.plan import plan
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.side_by_side import Candidates, bytes_of_chain
from devinterp.sampling.engines.stacked_weights import StackedWeights, alike
from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.execution.tasks import read_plan
from devinterp.store.run_store import RunStore
from support.engines import paths_of, spec_of
from support.many_restrictions import HEADS, both, compare
from support.small_models import VOCABULARY, WIDTH, Deep, deep, ids, run, same_numbers


@pytest.mark.parametrize("kernel", ["sgld", "rmsprop_sgld", "sgnht"])
def test_each_is_as_it_is_alone(kernel):
    _, other = both(sampling_method=kernel)
    assert paths_of(other)["prefix/l1h0"] == "1 layers reused"
    assert paths_of(other)["prefix/l2h0"] == "2 layers reused"


@pytest.mark.heavy
@pytest.mark.parametrize(
    "changes",
    [
        {"match_sampling_input_ids_across_chains": False},
        {"match_sampling_input_ids_across_chains": False, "gradient_accumulation_steps": 2},
        {"init_noise": 0.02, "num_burnin_steps": 2},
        {"bounding_box_size": 0.03},
        {"save_metrics": ["distance", "mala_acceptance"]},
        {"num_chains": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_with_other_settings(changes):
    both(**changes)


@pytest.mark.parametrize("matched", [True, False])
def test_of_padded_text(matched):
    class Padded(Deep):
        def forward(self, ids, attention_mask=None):
            return super().forward(ids)

    mask = torch.ones_like(ids())
    mask[::2, 5:] = 0
    data = {"input_ids": ids(), "attention_mask": mask}
    both(deep(Padded), dataset=data, observables={"code": data}, match_sampling_input_ids_across_chains=matched)


def test_with_a_loss_of_ones_own():
    def loss_fn(model, batch):
        logits = model(batch)[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(
            len(batch), -1
        )

    both(loss_fn=loss_fn, loss_dims=("position",))


def test_where_the_unembedding_is_sampled():
    chosen = torch.arange(VOCABULARY)[:, None].expand(VOCABULARY, WIDTH)
    both(weight_restrictions={"even": {"head.weight": chosen % 2 == 0}, "odd": {"head.weight": chosen % 2 == 1}})


def test_what_is_alike():
    masks = {"a": Mask.from_bool(torch.tensor([True, False, False])), "b": Mask.whole((2,))}
    assert alike(masks, {**masks, "a": Mask.from_bool(torch.tensor([False, False, True]))})
    assert not alike(masks, {**masks, "a": Mask.from_bool(torch.tensor([True, False, True]))})
    assert not alike(masks, {"a": masks["a"]})
    assert not alike(masks, {"b": masks["b"], "a": masks["a"]})
    assert not alike(masks, {**masks, "a": Mask.whole((3,))})


def test_noise_is_that_of_each_alone():
    spec = spec_of(deep(), ids(), HEADS, observables={})
    three = [spec.restrictions[f"l2h{n}"] for n in range(3)]
    generators = partial(map, lambda seed: torch.Generator().manual_seed(seed))
    stacked = list(StackedWeights(spec.model, three, 2).noise(list(generators([7, 8])), 0.5))
    for n, masks in enumerate(three):
        for chain, generator in enumerate(generators([7, 8])):
            alone = InPlaceWeights(spec.model, masks).noise([generator], 0.5)
            for together, expected in zip(stacked, alone, strict=True):
                torch.testing.assert_close(together[2 * n + chain], expected[0], rtol=0, atol=0)


def test_a_gradient_that_is_lost_under_one_restriction_is_seen(monkeypatch):
    original = vectorization.VectorizedEngine.add_gradient

    def add_gradient(self, sequence_ids):
        computed = original(self, sequence_ids)
        self.weights.values[0].grad[-1] = 0
        return computed

    monkeypatch.setattr(vectorization.VectorizedEngine, "add_gradient", add_gradient)
    assert "gradients differ by" in paths_of(run(deep(), chains="auto", weight_restrictions=HEADS))["chains/l2h0"]


@pytest.mark.parametrize(
    ("fit", "expected"),
    [(6, [(3, 2)]), (4, [(2, 2), (1, 2)]), (3, [(1, 2), (1, 2), (1, 2)]), (1, [(1, 1)] * 6)],
)
def test_as_many_as_fit_run_together(fit, expected, monkeypatch):
    spec = spec_of(deep(), ids(), HEADS, observables={})
    names = ["l2h0", "l2h1", "l2h2"]
    size = bytes_of_chain(spec, Candidates(tuple(names), (0, 1)), SharedPrefix())
    monkeypatch.setattr(vectorization, "_HOST_BUDGET", fit * size)
    batches = plan(spec, names, [0, 1], "vectorized")
    assert [(len(batch.restrictions), len(batch.chains)) for batch in batches] == expected
    assert batches[0].restrictions[0] == "l2h0"


def test_the_plan_is_kept_with_the_run(tmp_path):
    run(deep(), chains="vectorized", weight_restrictions=HEADS, output_path=tmp_path / "run.zarr")
    batches = read_plan(RunStore.at(tmp_path / "run.zarr"), HEADS)
    assert [batch.restrictions for batch in batches] == [("l1h0", "l1h1", "l1h2"), ("l2h0", "l2h1", "l2h2")]


OPTIONS = {"weight_restrictions": HEADS, "observables": {"code": ids("code")}, "chains": "vectorized"}


@pytest.mark.heavy
def test_more_draws_chains_and_restrictions(tmp_path):
    """What is added runs beside what is new, and the rest goes on as it began."""
    path = tmp_path / "run.zarr"
    few = {name: HEADS[name] for name in list(HEADS)[:5]}
    run(deep(), **{**OPTIONS, "weight_restrictions": few}, output_path=path, num_draws=3, keep_state=True)
    run(deep(), **OPTIONS, output_path=path, num_draws=3, num_chains=3)
    tree = run(deep(), **OPTIONS, output_path=path, num_draws=5, num_chains=3)
    compare(run(deep(), **{**OPTIONS, "chains": "sequential"}, num_draws=5, num_chains=3), tree)


@pytest.mark.heavy
@pytest.mark.parametrize("record", ["token", "moments"])
def test_more_draws_from_kept_state_are_those_of_a_longer_run(record, tmp_path):
    path, options = tmp_path / "run.zarr", {**OPTIONS, "record": record, "paired": False}
    run(deep(), **options, output_path=path, num_draws=3, keep_state=True)
    longer = run(deep(), **options, output_path=path, num_draws=6, keep_state=True)
    same_numbers(longer, run(deep(), **options, num_draws=6))


@pytest.mark.heavy
def test_workers_change_nothing(tmp_path):
    found = run(deep(), **OPTIONS, workers=2, output_path=tmp_path / "run.zarr")
    same_numbers(found, run(deep(), **OPTIONS))


def test_a_chain_that_diverges_leaves_the_others_alone():
    class Fragile(Deep):
        """Overflows where the first row of the last layer has moved far."""

        def body(self, hidden):
            far = (self.layers[2].mix.bias[0] > 0.5).to(hidden.dtype)
            return super().body(hidden) + torch.where(far > 0, torch.inf, 0.0)

    heads = {name: HEADS[name] for name in ("l2h0", "l2h1")}
    with pytest.warns(Warning, match="chains diverged"):
        tree = run(
            deep(Fragile),
            ids(),
            chains="vectorized",
            weight_restrictions=heads,
            lr=0.05,
            num_draws=60,
            localization=0.0,
        )
    states = tree["status/state"].to_numpy()
    assert (states[1] == "finished").all()
    assert "diverged" in states[0]
