"""Layers before the first moving one are computed once for each row, wherever they are constant and nowhere else."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import sample
from devinterp.sampling.engines import prefix_cache, prefix_check
from devinterp.sampling.engines.prefix_cache import PrefixCache
from support import model_zoo as zoo
from support.engines import assert_close, chain_of, last_layer, measured, paths_of, reuse_note, spec_of, zoo_params
from support.small_models import SHORT, WIDTH, Deep, Layer, deep, ids, same_numbers, snapshot

#: What moves in the tests that do not say so: the last of the layers.
LAST = "layers.2.mix.weight"


class WithNone(Deep):
    class Block(Layer):
        def forward(self, hidden):
            return super().forward(hidden), None, None

    def body(self, hidden):
        for layer in self.layers:
            hidden, nothing, _ = layer(hidden)
            assert nothing is None
        return hidden


class ByKeyword(Deep):
    def body(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden=hidden)
        return hidden


class Nested(Deep):
    """Layers in a Sequential, inside of another module."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*self.layers)

    def body(self, hidden):
        return self.layers(hidden)


class WithWeights(Deep):
    """Layers return more than hidden states, and nobody uses it."""

    form = tuple

    class Block(Layer):
        def forward(self, hidden):
            return WithWeights.form([super().forward(hidden), [hidden @ hidden.transpose(1, 2)], None])

    def body(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)[0]
        return hidden


class WithState(Deep):
    """Layers return more than hidden states, which the next one uses."""

    class Block(Layer):
        def forward(self, hidden, state=None):
            total = hidden.cumsum(1) if state is None else state + hidden
            return super().forward(hidden + 0.1 * total), (None, (total,))

    def body(self, hidden):
        state = None
        for layer in self.layers:
            hidden, (_, (state,)) = layer(hidden, state)
        return hidden


class WithDict(Deep):
    """Layers return what may hold anything."""

    class Block(Layer):
        def forward(self, hidden):
            return {"hidden": super().forward(hidden)}

    def body(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)["hidden"]
        return hidden


class WithMore(Deep):
    """Layers return more than hidden states, and what each of them returned is used."""

    class Block(Layer):
        def forward(self, hidden):
            return super().forward(hidden), hidden.mean()

    def body(self, hidden):
        total = 0
        for layer in self.layers:
            hidden, mean = layer(hidden)
            total = total + mean
        return hidden + total


class WithStacksInside(Deep):
    """Each layer is a longer stack than that of the layers."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(5)))
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, hidden):
            return hidden + torch.tanh(self.parts(self.mix(hidden)))


class Twice(Deep):
    def body(self, hidden):
        return super().body(super().body(hidden))


class Backwards(Deep):
    """Layers do not run in the order of their list, and the first of the list last."""

    def body(self, hidden):
        for layer in reversed(self.layers):
            hidden = layer(hidden)
        return hidden


class Unused(Deep):
    """A layer never runs."""

    def body(self, hidden):
        return self.layers[2](self.layers[0](hidden))


class Parallel(Deep):
    """Layers beside each other rather than one after the other."""

    def body(self, hidden):
        return sum(layer(hidden) for layer in self.layers)


class Skipping(Deep):
    """The last layer sees what the first one gave."""

    def body(self, hidden):
        first = self.layers[0](hidden)
        return self.layers[2](self.layers[1](first) + first)


class Remembering(Deep):
    """The first layer leaves something behind that is taken up after the last."""

    class Block(Layer):
        def forward(self, hidden):
            self.left = hidden
            return super().forward(hidden)

    def body(self, hidden):
        return super().body(hidden) + self.layers[0].left.sum(1, keepdim=True)


class Sharing(Deep):
    """Layers hand a dict on, as where they share keys and values."""

    class Block(Layer):
        def forward(self, hidden, shared):
            shared[len(shared)] = hidden
            return super().forward(hidden)

    def body(self, hidden):
        shared = {}
        for layer in self.layers:
            hidden = layer(hidden, shared)
        return self.end(hidden, shared)

    def end(self, hidden, shared):
        return hidden + shared[2]


class Counting(Sharing):
    """That layers were left out changes what comes out, and is no error."""

    def end(self, hidden, shared):
        return hidden * len(shared)


class Borrowing(Deep):
    """The first layer uses a weight of the last one, which is no parameter of its own."""

    def __init__(self):
        super().__init__()
        self.layers[0].register_forward_hook(lambda _, args, output: output @ self.layers[2].mix.weight)


class PositionsFirst(Deep):
    """Inside, hidden states are ``(token, sequence, width)``."""

    class Block(Layer):
        def forward(self, hidden):
            return super().forward(hidden.transpose(0, 1)).transpose(0, 1).contiguous()

    def body(self, hidden):
        return super().body(hidden.transpose(0, 1).contiguous()).transpose(0, 1)


class Copies(Deep):
    """Inside, there are several hidden states of each token: ``(copy, sequence, token, width)``."""

    class Block(Layer):
        def forward(self, hidden):
            return hidden + torch.tanh(self.mix(hidden.cumsum(2)))

    def body(self, hidden):
        return super().body(torch.stack([hidden * n for n in range(1, 5)])).sum(0)


def note_of(kind, *, moving=LAST, data=None, tie=False):
    """Check that reuse changes no number; return what is recorded of it."""
    model = deep(kind)
    if tie:
        model.head.weight = model.embed.weight
    data = ids() if data is None else data
    spec = spec_of(model, data, {"some": {moving: True}}, observables={"code": ids("code")[:, : data.shape[1]]})
    before = snapshot(model)
    assert_close(measured(spec, "some", reuse=True), measured(spec, "some"), num_losses=3)
    assert snapshot(model) == before
    return reuse_note(spec, "some")


@pytest.mark.parametrize("kind", [Deep, WithNone, ByKeyword, Nested, WithStacksInside])
@pytest.mark.parametrize(
    ("moving", "note"),
    [
        ("head.weight", "3 layers reused"),
        ("layers.2.mix.weight", "2 layers reused"),
        ("layers.1.mix.bias", "1 layers reused"),
        ("layers.0.mix.weight", "nothing to reuse"),
        ("embed.weight", "nothing to reuse"),
    ],
)
def test_as_many_layers_as_run_before_the_first_moving_weight(kind, moving, note):
    assert note_of(kind, moving=moving) == note


def test_nothing_before_a_head_that_is_the_embedding():
    assert note_of(Deep, moving="embed.weight", tie=True) == "nothing to reuse"


@pytest.mark.parametrize(
    ("kind", "moving"), [(Twice, LAST), (WithDict, LAST), (Backwards, "layers.0.mix.weight"), (Unused, LAST)]
)
def test_nothing_of_stacks_that_are_no_chain_of_hidden_states(kind, moving):
    assert note_of(kind, moving=moving) == "nothing to reuse"


@pytest.mark.parametrize(("kind", "kept"), [(WithWeights, 1), (WithState, 2)])
def test_of_what_layers_return_that_is_kept_which_is_used(kind, kept):
    model = deep(kind)
    spec = spec_of(model, ids(), {"last": {LAST: True}}, observables={"code": ids("code")})
    found, expected = measured(spec, "last", reuse=True), measured(spec, "last")
    assert_close(found, expected, num_losses=3)
    assert reuse_note(spec, "last") == "2 layers reused"
    with chain_of(spec, "last") as chain:
        assert len(chain.prefix._kept["dataset"][0]) == kept


def test_layers_may_return_lists(monkeypatch):
    monkeypatch.setattr(WithWeights, "form", list)
    assert note_of(WithWeights) == "2 layers reused"


def test_what_every_layer_adds_is_not_kept():
    assert note_of(WithMore) == "nothing reused: layers do not return a row of activations for each sequence"


def test_too_little_memory_for_anything_is_said(monkeypatch):
    monkeypatch.setattr(prefix_cache, "PrefixCache", partial(PrefixCache, budget=100))
    assert note_of(Deep) == "nothing reused: the activations take more than 1e-07 GB for each data set"


@pytest.mark.parametrize("kind", [Parallel, Skipping, Remembering, Counting, Borrowing])
def test_what_is_wrongly_taken_for_constant_is_found_out(kind):
    assert note_of(kind).startswith("nothing reused: losses differ by")


def test_layers_that_cannot_be_left_out_are_found_out():
    assert note_of(Sharing).startswith("nothing reused: the model does not run without its first layers")


@pytest.mark.parametrize("kind", [PositionsFirst, Copies])
@pytest.mark.parametrize("length", [9, 4])
def test_activations_that_are_not_ordered_by_row(kind, length):
    """Batches have four rows: with four tokens or four copies the sizes alone do not tell."""
    assert note_of(kind, data=ids()[:, :length]).startswith("nothing reused: ")


class Counted:
    """Counts the rows that each layer really computes."""

    def __init__(self, model):
        self.rows = [0, 0, 0]
        for n, layer in enumerate(model.layers):
            layer.mix.register_forward_hook(partial(self.add, n))

    def add(self, n, module, args, output):
        self.rows[n] += len(output)


def counted(num_draws, restrictions=(LAST,), **changes):
    """Return the rows that each layer computed in a run over all rows, and its tree."""
    model = deep()
    seen = Counted(model)
    settings = {**SHORT, "num_draws": num_draws, "progress": False, "paired": False, **changes}
    named = {name: {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool)} for name in restrictions}
    tree = sample(model, ids(), {"code": ids("code")}, weight_restrictions=named, **settings)
    return seen.rows, tree


def test_constant_layers_are_not_run_again():
    """Twelve draws meet every row twice: twelve more draws run the last layer alone."""
    few, many = counted(12)[0], counted(24)[0]
    chains = SHORT["num_chains"]
    # A row of the minibatch and of the observable for each draw and chain.
    assert many[2] - few[2] == chains * 12 * 2 * SHORT["batch_size"]
    assert many[0] == few[0]
    assert many[1] == few[1]


@pytest.mark.parametrize("restrictions", [(LAST,), (LAST, "layers.2.mix.bias")])
def test_losses_at_w0_take_no_pass_of_their_own_through_them(restrictions):
    """The pass that measures the loss of every row before the first step gives the activations that chains start from."""
    (paired, with_rows), (plain, without) = (counted(12, restrictions, paired=paired) for paired in (True, False))
    assert paired[:2] == plain[:2]
    assert paired[2] - plain[2] == len(ids())
    np.testing.assert_array_equal(with_rows["trace/loss"], without["trace/loss"])


def test_each_row_runs_them_once():
    rows, observable = len(ids()), SHORT["batch_size"]
    computed, _ = counted(12, paired=True)
    # Beside that two batches for the comparison with the whole model, and one or two rows each that try what the model takes.
    tried = computed[0] - rows - observable - 2 * SHORT["batch_size"]
    assert 0 <= tried < 4 * SHORT["batch_size"]


class Neighbours(Deep):
    """What a layer gives for a row depends in the last bits on the other rows of its batch, as products of matrices do."""

    class Block(Layer):
        def forward(self, hidden):
            return super().forward(hidden) * (1 + 3e-7 * torch.sigmoid(hidden.sum()))


@pytest.mark.parametrize("draws", [2, 7])
def test_a_run_in_two_parts_meets_every_row_among_the_same_neighbours(tmp_path, draws):
    def part(num_draws, **options):
        settings = {**SHORT, "progress": False, "paired": True, "num_draws": num_draws, **options}
        return sample(deep(Neighbours), ids(), {"code": ids("code")}, param_masks={LAST: None}, **settings).load()

    part(draws, output_path=tmp_path / "run", keep_state=True)
    parts, whole = part(9, output_path=tmp_path / "run"), part(9)
    assert paths_of(whole)["prefix/custom"] == "2 layers reused"
    for name in ("trace/loss", "observables/code/loss"):
        np.testing.assert_array_equal(parts[name], whole[name])


def test_each_chain_with_batches_of_its_own_runs_them_once():
    few, many = (counted(n, match_sampling_input_ids_across_chains=False)[0] for n in (12, 24))
    assert many[:2] == few[:2]
    alone = counted(12, match_sampling_input_ids_across_chains=False, num_chains=1)[0]
    assert few[0] > alone[0]


def test_beyond_the_budget_they_are_run_every_time(monkeypatch):
    expected = counted(12)[1]
    monkeypatch.setattr(prefix_cache, "PrefixCache", partial(PrefixCache, budget=100))
    few, tree = counted(12)
    many = counted(24)[0]
    assert many[0] - few[0] == many[2] - few[2]
    same_numbers(tree, expected, rtol=1e-5)


def test_a_budget_for_some_data_keeps_that(monkeypatch):
    """The observable's activations, which every draw needs, come before those of the dataset."""
    expected = counted(12)[1]
    size = 4 * ids()[:, :].numel() * WIDTH
    monkeypatch.setattr(prefix_cache, "PrefixCache", partial(PrefixCache, budget=size))
    few, tree = counted(12)
    many = counted(24)[0]
    assert many[0] - few[0] == (many[2] - few[2]) / 2
    same_numbers(tree, expected, rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("matched", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_restrictions_of_one_run_do_not_disturb_each_other(matched, monkeypatch):
    names = (LAST, "layers.1.mix.bias", "head.weight", "embed.weight")
    options = {"match_sampling_input_ids_across_chains": matched}
    together = counted(12, names, **options)[1]
    paths = paths_of(together)
    assert [paths[f"prefix/{name}"][:7] for name in names] == ["2 layer", "1 layer", "3 layer", "nothing"]
    for n, name in enumerate(names):
        alone = counted(12, (name,), **options)[1]
        np.testing.assert_array_equal(together["trace/loss"][n], alone["trace/loss"][0])
        np.testing.assert_array_equal(together["observables/code/loss"][n], alone["observables/code/loss"][0])
    monkeypatch.setattr(prefix_check, "find_prefixes", lambda *_: [])
    plain = counted(12, names, **options)[1]
    assert paths_of(plain)[f"prefix/{LAST}"] == "nothing to reuse"
    same_numbers(together, plain, rtol=1e-5)


def test_restrictions_with_the_same_constant_layers_share_them():
    one, two = (counted(12, names)[0] for names in [(LAST,), (LAST, "layers.2.mix.bias")])
    assert two[2] - one[2] >= SHORT["num_chains"] * 12 * 2 * SHORT["batch_size"]
    # The second compares both data sets once with the plain path, looks for its constant layers once, and tries on two rows
    # whether gradients reach it.
    assert two[0] - one[0] <= 2 * SHORT["batch_size"] + 1 + 2


class StopError(Exception):
    """Raised in the middle of a run."""


def test_a_model_is_as_it_was_after_an_error_behind_its_prefix():
    model = deep()
    before = snapshot(model)
    calls = iter(range(100))

    def loss_fn(model, batch):
        logits = model(batch)
        if next(calls) == 20:
            raise StopError("as a test")
        return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")

    mask = {LAST: torch.ones(WIDTH, WIDTH, dtype=torch.bool)}
    with pytest.raises(StopError, match="as a test"):
        sample(model, ids(), loss_fn=loss_fn, param_masks=mask, progress=False, **{**SHORT, "num_draws": 30})
    assert snapshot(model) == before


#: Types of which nothing is reused, and what is recorded.
NOTHING = {
    # Layers run several times, or backwards.
    **dict.fromkeys(["hrm_text", "reformer"], "nothing to reuse"),
    "xlnet": "nothing reused: layers do not return a row of activations",
    "gemma3n_text": "nothing reused: losses differ by",  # as many copies as rows in a batch
}  # fmt: skip
#: Types whose last layer has weights that run earlier, too, and how many layers come before these.
EARLIER = {"zamba": 1, "blt": 2}


@pytest.mark.parametrize("model_type", zoo_params())
@pytest.mark.filterwarnings("ignore")  # of other people's code
def test_every_model_type_below_its_last_layer(model_type):
    model = zoo.build(model_type, "plain")
    num, masks = last_layer(model)
    spec = spec_of(model, restrictions={"last": masks})
    found, expected = measured(spec, "last", reuse=True), measured(spec, "last")
    assert_close(found, expected, num_losses=3)
    note = reuse_note(spec, "last")
    assert (
        note.startswith(NOTHING[model_type])
        if model_type in NOTHING
        else note == f"{EARLIER.get(model_type, num - 1)} layers reused"
    )
