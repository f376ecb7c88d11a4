"""Any model and any data, through ``loss_fn``: what is recorded is what the model gives, and analyses answer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from devinterp import sample
from devinterp.errors import InvalidInputError
from devinterp.slt.llc import llc
from support.small_models import SHORT

NUM = 24


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Convolutional(nn.Module):
    """A classifier of small pictures, with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(4 * 6 * 6, 3)

    def forward(self, pictures):
        return self.head(self.body(pictures))


def classified(model, batch):
    pictures, labels = batch
    return nn.functional.cross_entropy(model(pictures), labels, reduction="none")


def pictures():
    return torch.randn(NUM, 1, 8, 8), torch.randint(0, 3, (NUM,))


def convolutional():
    """Return the classifier in eval mode, with batch statistics of its own."""
    model = Convolutional()
    model.body(pictures()[0])  # train mode: running statistics move away from 0 and 1
    return model.eval()


def run(model, dataset, loss_fn, observables=None, **changes):
    """Sample, and check what holds of every run: the model is as it was, and the start is the loss it gives."""
    before = copy.deepcopy(model.state_dict())
    mode = model.training
    tree = sample(model, dataset, observables, loss_fn=loss_fn, progress=False, **{**SHORT, **changes})
    assert model.training == mode
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert bool((tree["status/error"] == "").all())
    assert np.isfinite(float(tree.slt.llc()["llc_mean"]))
    return tree


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_a_convolutional_classifier_in_eval_mode(chains):
    model, data = convolutional(), pictures()
    tree = run(model, data, classified, {"seen": data}, chains=chains, num_init_loss_batches=6)
    with torch.no_grad():
        start = classified(model, data)
    np.testing.assert_allclose(tree["trace/init_loss"].mean(), start.mean(), rtol=1e-5)
    seen = tree["observables/seen"]
    np.testing.assert_allclose(seen["init_loss"], start[seen["sequence_id"].to_numpy()], rtol=1e-5)
    assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch")
    # Dropout is off, so the first loss of every chain is the starting loss of its rows.
    first = tree["trace/loss"][0, 0, 0]
    np.testing.assert_allclose(first, start[tree["trace/sequence_id"][0, 0].to_numpy()], rtol=1e-5)


def test_losses_at_a_draw_are_those_of_the_moved_model():
    """With one chain and no localization the weights after a step can be computed by hand."""
    model, data = convolutional(), pictures()
    settings = {"num_chains": 1, "num_draws": 1, "localization": 0.0, "chains": "sequential"}
    tree = run(model, data, classified, {"seen": data}, **settings)
    moved = copy.deepcopy(model)
    rows = tree["trace/sequence_id"][0, 0].to_numpy()
    classified(moved, (data[0][rows], data[1][rows])).mean().backward()
    generator = torch.Generator().manual_seed(100)
    with torch.no_grad():
        for p in moved.parameters():
            noise = torch.empty(p.shape).normal_(generator=generator)
            p += -SHORT["lr"] / 2 * SHORT["n_beta"] * p.grad + SHORT["lr"] ** 0.5 * noise
        expected = classified(moved, data)[tree["observables/seen/sequence_id"].to_numpy()]
    np.testing.assert_allclose(tree["observables/seen/loss"][0, 0, 0], expected, rtol=1e-4)


def regression(model, batch):
    return (model(batch[0]) - batch[1]).pow(2)


def table():
    x = torch.randn(NUM, 5)
    return x, x @ torch.randn(5, 2)


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Endless(Stream):
    __len__ = None


FORMS = {
    "tuple of tensors": lambda x, y: (x, y),
    "tuple of arrays": lambda x, y: (x.numpy(), y.numpy()),
    "TensorDataset": TensorDataset,
    "Dataset": Pairs,
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True),
    "IterableDataset": Stream,
    "DataLoader of an IterableDataset": lambda x, y: DataLoader(Stream(x, y), batch_size=5),
    "list of rows": lambda x, y: list(zip(x, y, strict=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_regression_on_data_in_any_form_gives_the_same_run(form):
    x, y = table()
    model = nn.Linear(5, 2)
    dims = {"loss_dims": ("output",)}
    expected = run(model, (x, y), regression, **dims)
    found = run(model, FORMS[form](x, y), regression, **dims)
    np.testing.assert_array_equal(found["trace/loss"], expected["trace/loss"])
    assert found["trace/loss"].dims[-1] == "output"


def test_a_stream_without_length_is_refused():
    with pytest.raises(InvalidInputError, match="has no length: pass a dataset of known length"):
        run(nn.Linear(5, 2), Endless(*table()), regression, loss_dims=("output",))


def test_a_dict_of_tensors():
    x, y = table()
    model = nn.Linear(5, 2)
    by_name = run(model, {"features": x, "target": y}, lambda m, b: (m(b["features"]) - b["target"]).pow(2).mean(1))
    by_place = run(model, (x, y), lambda m, b: (m(b[0]) - b[1]).pow(2).mean(1))
    np.testing.assert_array_equal(by_name["trace/loss"], by_place["trace/loss"])


def test_dims_of_the_loss_must_be_named():
    with pytest.raises(InvalidInputError, match="name each, for example loss_dims"):
        run(nn.Linear(5, 2), table(), regression)


def test_pictures_of_losses():
    """Two trailing dims, kept as they are."""
    model = nn.Conv2d(1, 1, 3, padding=1)
    data = (torch.randn(NUM, 1, 6, 4),)
    found = run(model, data, lambda m, b: (m(b[0]) - b[0])[:, 0].pow(2), {"seen": data}, loss_dims=("height", "width"))
    by_hand = SHORT["n_beta"] * (found["observables/seen/loss"].mean() - found["observables/seen/init_loss"].mean())
    np.testing.assert_allclose(found.slt.llc()["observable_llc_mean"].squeeze(), by_hand, rtol=1e-3)
    assert found.slt.bif(method="token").sizes["target_position"] == 24
    assert found["observables/seen/loss"].dims == ("restriction", "chain", "draw", "sequence", "height", "width")
    assert found["trace/loss"].shape[-2:] == (6, 4)


class Reward(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.score = nn.Linear(6, 1)

    def forward(self, tokens):
        return self.score(torch.tanh(self.embed(tokens)).mean(1))[:, 0]


def preference(model, batch):
    """Return the Bradley-Terry loss of each pair."""
    return -nn.functional.logsigmoid(model(batch["chosen"]) - model(batch["rejected"]))


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_preference_pairs_of_a_reward_model(chains):
    pairs = {"chosen": torch.randint(0, 13, (NUM, 7)), "rejected": torch.randint(0, 13, (NUM, 7))}
    model = Reward()
    tree = run(model, pairs, preference, {"pairs": pairs}, chains=chains, num_draws=6)
    with torch.no_grad():
        expected = preference(model, pairs)
    seen = tree["observables/pairs"]
    np.testing.assert_allclose(seen["init_loss"], expected[seen["sequence_id"].to_numpy()], rtol=1e-5)
    influences = tree.slt.bif(method="sequence")["influences"]
    assert influences.shape == (4, 4)
    assert np.isfinite(influences.to_numpy()).all()


class Encoder(nn.Module):
    """Bidirectional: every token sees every other that is no padding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 13)

    def forward(self, tokens, padding):
        return self.head(self.layers(self.embed(tokens), src_key_padding_mask=padding))


MASK = 0


def masked_lm(model, batch):
    """Return the mean loss at the hidden tokens of each sentence."""
    hidden = torch.where(batch["hide"], MASK, batch["tokens"])
    logits = model(hidden, ~batch["text"])
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), batch["tokens"], reduction="none")
    return torch.where(batch["hide"], losses, 0).sum(1) / batch["hide"].sum(1)


def hidden_words():
    text = torch.arange(9)[None] < torch.randint(5, 10, (NUM, 1))
    hide = (torch.rand(NUM, 9) < 0.3) & text
    hide[:, 0] = True
    return {"tokens": torch.randint(1, 13, (NUM, 9)), "text": text, "hide": hide}


def test_an_encoder_with_masked_words():
    data, model = hidden_words(), Encoder().eval()
    tree = run(model, data, masked_lm, {"words": data}, num_draws=6, num_init_loss_batches=6)
    seen = tree["observables/words"]
    with torch.no_grad():
        start = masked_lm(model, data)
    np.testing.assert_allclose(seen["init_loss"], start[seen["sequence_id"].to_numpy()], rtol=1e-5)
    by_hand = SHORT["n_beta"] * (float(seen["loss"].mean()) - float(seen["init_loss"].mean()))
    np.testing.assert_allclose(tree.slt.llc()["observable_llc_mean"].squeeze(), by_hand, rtol=1e-3)


def test_a_loss_that_is_not_a_number_is_refused_at_the_start():
    """It would otherwise look like a chain that diverged; return the mean of what counts instead."""
    data = hidden_words()
    with pytest.raises(InvalidInputError, match="is not finite on rows"):
        run(Encoder().eval(), data, lambda m, b: torch.where(b["hide"][:, 1], masked_lm(m, b), torch.nan))


class Causal(nn.Module):
    """A small language model that takes an attention mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.mix = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 13)

    def forward(self, input_ids, attention_mask=None):
        hidden, _ = self.mix(self.embed(input_ids))
        return self.head(hidden)


def ragged():
    ids = torch.randint(0, 13, (NUM, 8))
    lengths = torch.randint(4, 9, (NUM,))
    return {"input_ids": ids, "attention_mask": (torch.arange(8)[None] < lengths[:, None]).long()}, lengths.numpy()


def test_ragged_text_with_an_attention_mask():
    data, lengths = ragged()
    model = Causal().eval()
    settings = {**SHORT, "num_draws": 12, "progress": False}
    tree = sample(model, data, {"text": data}, **settings)
    seen = tree["observables/text"]
    counts = (~np.isnan(seen["loss"].to_numpy())).sum(-1)
    assert (counts == lengths[seen["sequence_id"].to_numpy()] - 1).all()
    trace = tree["trace/loss"][0]
    assert ((~np.isnan(trace)).sum("position") == lengths[tree["trace/sequence_id"].to_numpy()] - 1).all()
    result = tree.slt.llc()
    assert np.isfinite(float(result["llc_mean"]))
    assert np.isfinite(float(result["observable_llc_mean"].squeeze()))


def test_padding_is_ignored_by_analyses():
    """What stands behind the mask changes nothing: not the losses, not the coefficient, not the influences."""
    data, _ = ragged()
    other = {**data, "input_ids": torch.where(data["attention_mask"].bool(), data["input_ids"], 5)}
    model = Causal().eval()
    settings = {**SHORT, "num_draws": 12, "progress": False}
    trees = [sample(model, each, {"text": each, "again": each}, **settings) for each in (data, other)]
    for name in ("llc_mean", "observable_llc_mean"):
        a, b = (tree.slt.llc()[name].to_numpy() for tree in trees)
        np.testing.assert_array_equal(a, b)
    for method in ("sequence", "token"):
        a, b = (tree.slt.bif(method=method) for tree in trees)
        for name in set(a.data_vars) - {"input_ids", "candidate_input_ids"}:
            np.testing.assert_array_equal(a[name], b[name])


def test_one_call_works_too():
    x, y = table()
    model, settings = nn.Linear(5, 2), {name: value for name, value in SHORT.items() if name != "chains"}
    found = llc(model, (x, y), loss_fn=regression, loss_dims=("output",), progress=False, **settings)
    tree = run(model, (x, y), regression, loss_dims=("output",))
    np.testing.assert_allclose(found["llc_mean"], tree.slt.llc()["llc_mean"], rtol=1e-4)
