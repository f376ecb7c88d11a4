"""Data in any format give the same numbers; the order of minibatches is a DataLoader's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.schedule import Schedule, epoch_batches, observable_rows
from devinterp.sampling.settings import Settings
from support.small_models import TinyModel, ids, make, run, same_numbers


class Items(Dataset):
    """A torch Dataset of dicts with more columns than are used."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "label": index}


class Stream(IterableDataset):
    def __len__(self):
        return 24

    def __iter__(self):
        yield from ids()


def huggingface(kind, **columns):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"input_ids": ids().tolist(), "text": ["x"] * 24, **columns})
    return table.with_format(kind)


def read_only():
    array = ids().numpy().copy()
    array.setflags(write=False)
    return array


FORMATS = {
    "huggingface, torch": lambda: huggingface("torch"),
    "huggingface, numpy": lambda: huggingface("numpy"),
    "huggingface, lists": lambda: huggingface(None),
    "huggingface, pandas": lambda: huggingface("pandas"),
    "huggingface, arrow": lambda: huggingface("arrow"),
    "huggingface, int32": lambda: int32_table(),
    "huggingface, selected": lambda: huggingface(None).select(range(24)),
    "huggingface, torch columns": lambda: huggingface("torch").with_format("torch", columns=["input_ids"]),
    "tensor, int32": lambda: ids().int(),
    "tensor, uint8": lambda: ids().byte(),
    "array": lambda: ids().numpy(),
    "array, int32": lambda: ids().numpy().astype(np.int32),
    "array, uint16": lambda: ids().numpy().astype(np.uint16),
    "array, read-only": read_only,
    "array, reversed twice": lambda: ids().numpy()[::-1].copy()[::-1],
    "lists": lambda: ids().tolist(),
    "list of tensors": lambda: list(ids()),
    "list of dicts": lambda: [{"input_ids": row.tolist()} for row in ids()],
    "dict of tensors": lambda: {"input_ids": ids()},
    "dict of lists": lambda: {"input_ids": ids().tolist()},
    "dict with other columns": lambda: {"input_ids": ids(), "token_type_ids": torch.zeros_like(ids())},
    "dict with a mask of ones": lambda: {"input_ids": ids(), "attention_mask": torch.ones_like(ids())},
    "torch Dataset of dicts": lambda: Items(ids()),
    "DataLoader": lambda: DataLoader(Items(ids()), batch_size=3, shuffle=True),
    "DataLoader of a table": lambda: DataLoader(huggingface("torch"), batch_size=3),
    "iterable of known length": Stream,
}


def int32_table():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int32"))})
    return datasets.Dataset.from_dict({"input_ids": ids().tolist()}, features=features)


@pytest.fixture(scope="module")
def expected():
    return run(observables={"code": ids("code")}, num_draws=2)


@pytest.mark.parametrize("name", FORMATS)
def test_results_do_not_depend_on_the_format(name, expected):
    dataset = FORMATS[name]()
    same_numbers(run(make(), dataset, {"code": ids("code")}, num_draws=2), expected)


@pytest.mark.parametrize("name", ["huggingface, lists", "array, uint16", "dict with other columns", "DataLoader"])
def test_observables_too(name):
    found = run(make(), None, {"train": FORMATS[name]()}, num_draws=2)
    same_numbers(found, run(make(), None, {"train": ids()}, num_draws=2))


def test_a_memory_mapped_file(tmp_path, expected):
    np.save(tmp_path / "ids.npy", ids().numpy().astype(np.uint16))
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    same_numbers(run(make(), mapped, {"code": ids("code")}, num_draws=2), expected)


def test_only_rows_that_are_used_are_read():
    class Watched(Items):
        seen: set[int] = set()  # noqa: RUF012

        def __getitem__(self, index):
            self.seen.add(index)
            return super().__getitem__(index)

    watched = Watched(ids())
    tree = run(make(), watched, num_draws=2, num_init_loss_batches=1)
    assert watched.seen == set(tree["trace/sequence_id"].to_numpy().ravel().tolist())
    assert len(watched.seen) == 8


# -- order ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shuffle=st.booleans(), seed=st.integers(0, 2**31))
def test_the_order_of_minibatches_is_a_dataloaders(data, shuffle, seed):
    num_rows = data.draw(st.integers(1, 60))
    batch_size = data.draw(st.integers(1, num_rows))
    loader = DataLoader(
        TensorDataset(torch.arange(num_rows)),
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
    theirs = [batch[0].tolist() for batch in loader]
    assert epoch_batches(num_rows, batch_size, seed=seed, shuffle=shuffle).tolist() == theirs


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(4, 30),
    num_steps=st.integers(1, 20),
    accumulate=st.integers(1, 3),
    match=st.booleans(),
    chain=st.integers(0, 3),
)
def test_later_epochs_replay_the_first(num_rows, num_steps, accumulate, match, chain):
    chosen = Settings(
        lr=1e-3,
        n_beta=1.0,
        num_draws=num_steps,
        batch_size=4,
        gradient_accumulation_steps=accumulate,
        match_sampling_input_ids_across_chains=match,
    )
    epoch = epoch_batches(num_rows, 4, seed=100 + (0 if match else chain), shuffle=True)
    flat = np.stack(Schedule(chosen, num_rows).steps(chain)).reshape(-1, 4)
    assert flat.shape == (num_steps * accumulate, 4)
    assert all((batch == epoch[n % len(epoch)]).all() for n, batch in enumerate(flat))
    start = Schedule(chosen, num_rows).initial_batches(chain)
    assert (start[: min(len(epoch), len(start))] == epoch[: len(start)]).all()


def test_rows_of_observables_are_a_seeded_choice():
    import random

    chosen = Settings(lr=1e-3, n_beta=1.0, batch_size=4, obs_seed=7)
    rows = observable_rows(chosen, 24, 3, name="code")
    assert rows.tolist() == random.Random(7).sample(range(24), 12)
    node = run(observables={"code": (ids("code"), 3)}, obs_seed=7)["observables/code"]
    np.testing.assert_array_equal(node["sequence_id"], rows)


# -- padding ----------------------------------------------------------------------------------------------------------

LENGTHS = np.array([9, 5, 2, 7] * 6)


def padded(side="right"):
    """Return ids padded with token 0, and their mask."""
    found, mask = torch.zeros_like(ids()), torch.zeros_like(ids())
    for n, (row, length) in enumerate(zip(ids(), LENGTHS, strict=True)):
        where = slice(0, length) if side == "right" else slice(9 - length, 9)
        found[n, where], mask[n, where] = row[:length], 1
    return {"input_ids": found, "attention_mask": mask}


class Masked(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_padding_is_nan_and_text_is_as_without_padding(side, chains):
    tree = run(make(Masked), padded(side), {"padded": padded(side)}, noise_level=0.0, lr=1e-9, chains=chains)
    rows = tree["trace/sequence_id"].to_numpy()
    losses = tree["trace/loss"][0].to_numpy()
    plain = (
        nn.functional.cross_entropy(make()(ids())[:, :-1].transpose(1, 2), ids()[:, 1:], reduction="none")
        .detach()
        .numpy()
    )
    for chain, step, slot in np.ndindex(rows.shape):
        row = rows[chain, step, slot]
        length = LENGTHS[row]
        valid = slice(0, length - 1) if side == "right" else slice(9 - length, 8)
        got = losses[chain, step, slot]
        np.testing.assert_allclose(got[valid], plain[row, : length - 1], rtol=1e-5)
        assert np.isnan(np.delete(got, np.arange(8)[valid])).all()
    observable = tree["observables/padded"]
    assert (np.isfinite(observable["init_loss"]).sum("position") == LENGTHS[observable["sequence_id"]] - 1).all()
    assert np.isfinite(tree["trace/init_loss"].to_numpy()).all()
    assert set(tree["status/state"].to_numpy().ravel()) == {"finished"}


def test_padding_does_not_move_the_weights():
    """A padded batch has the gradient of its text: the mean is over the tokens that count."""
    text = {"input_ids": ids()[:, :5]}
    mask = torch.ones_like(ids())
    mask[:, 5:] = 0
    with_padding = {"input_ids": ids() * mask, "attention_mask": mask}
    long, short = run(make(Masked), with_padding), run(make(Masked), text)
    np.testing.assert_allclose(long["trace/loss"][..., :4], short["trace/loss"], rtol=1e-5)
    assert np.isnan(long["trace/loss"][..., 4:]).all()
    np.testing.assert_allclose(long.slt.llc()["llc_mean"], short.slt.llc()["llc_mean"], rtol=1e-3)


def test_a_row_of_padding_only():
    data = padded()
    data["attention_mask"][3] = 0
    tree = run(make(Masked), data, {"padded": (data, 6)}, num_draws=6, num_init_loss_batches=6)
    assert np.isnan(tree["observables/padded/init_loss"].to_numpy()).all(1).sum() == 1
    assert np.isfinite(tree.slt.llc()["llc_mean"])
    assert np.isfinite(tree["trace/init_loss_mean_se"]).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_text_of_a_huggingface_model(side):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    tree = run(model, ids(), {"padded": (padded(side), 6), "text": (ids(), 6)}, num_draws=2)
    long, short = tree["observables/padded"], tree["observables/text"]
    for n, row in enumerate(long["sequence_id"].to_numpy()):
        length = LENGTHS[row]
        valid = slice(0, length - 1) if side == "right" else slice(9 - length, 8)
        got, wanted = long["loss"][..., n, valid].to_numpy(), short["loss"][..., n, : length - 1].to_numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_padding_needs_a_model_that_takes_a_mask():
    with pytest.raises(InvalidInputError, match=r"tokens are masked, but TinyModel.forward takes no `attention_mask`"):
        run(make(), padded())


def test_a_position_that_is_padding_everywhere():
    data = {"input_ids": ids().clone(), "attention_mask": torch.ones_like(ids())}
    data["attention_mask"][:, 7:] = 0
    tree = run(make(Masked), data, chains="auto")
    assert np.isnan(tree["trace/init_loss"].to_numpy()).tolist() == [[False] * 6 + [True] * 2] * 2
    assert np.isfinite(tree.slt.llc()["llc_mean"])


def test_columns_must_agree():
    with pytest.raises(InvalidInputError, match=r"`dataset` must hold columns .* lengths are: 0 24, 1 23"):
        run(Classifier(), (pairs()[0], pairs()[1][1:]), loss_fn=classify)
    with pytest.raises(InvalidInputError, match=r"observable 'code' must hold columns .* 1 float without length"):
        run(observables={"code": (ids("code"), 2.5)})


# -- other data -------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 3, generator=generator))

    def forward(self, x):
        return x @ self.weight


def pairs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 5, generator=generator), torch.randint(3, (24,), generator=generator)


def classify(model, batch):
    x, y = batch.values() if isinstance(batch, dict) else batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize(
    "make_data",
    [
        pairs,
        lambda: TensorDataset(*pairs()),
        lambda: DataLoader(TensorDataset(*pairs()), batch_size=7),
        lambda: dict(zip("xy", pairs(), strict=True)),
        lambda: tuple(part.numpy() for part in pairs()),
        lambda: [{"x": x, "y": y} for x, y in zip(*pairs(), strict=True)],
    ],
)
@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_models_that_are_no_language_models(make_data, chains):
    tree = run(Classifier(), make_data(), {"held_out": (make_data(), 1)}, loss_fn=classify, chains=chains)
    assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch")
    assert tree["observables/held_out/loss"].dims == ("restriction", "chain", "draw", "sequence")
    assert "token_ids" not in tree["observables/held_out"]
    reference = run(Classifier(), pairs(), {"held_out": (pairs(), 1)}, loss_fn=classify)
    same_numbers(tree, reference, rtol=1e-5)
    assert np.isfinite(tree.slt.llc()["llc_mean"])


def test_losses_with_dims_of_their_own():
    def by_class(model, batch):
        return model(batch[0]).square()

    tree = run(Classifier(), pairs(), loss_fn=by_class, loss_dims=("class",))
    assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch", "class")
    assert tree["trace/init_loss"].dims == ("chain", "class")
    with pytest.raises(InvalidInputError, match=r"trailing shape \(3,\), but `loss_dims` names 0 \(none\)"):
        run(Classifier(), pairs(), loss_fn=by_class)


def test_outputs_of_models():
    class Mapped(TinyModel):
        def forward(self, ids):
            return {"logits": super().forward(ids)}

    class Named(TinyModel):
        def forward(self, ids):
            return SimpleNamespace(logits=super().forward(ids))

    expected = run()
    for kind in (Mapped, Named):
        same_numbers(run(make(kind)), expected)
