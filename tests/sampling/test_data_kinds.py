"""Data as people have them: whole rows reach the loss, masks and labels make NaN, loaders are honoured or refused by name."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from devinterp.errors import InvalidInputError
from devinterp.sampling.data import row_source
from devinterp.sampling.data.columns import leaves
from support.small_models import TinyModel, ids, make, run, same_numbers

pytestmark = pytest.mark.usefixtures("unchecked")
datasets = pytest.importorskip("datasets")

WAYS = ["sequential", "vectorized"]


class Masked(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


def per_token(model, batch):
    tokens = batch["input_ids"] if isinstance(batch, dict) else batch
    return functional.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


class Watched:
    """A loss that keeps what it was given."""

    def __init__(self, loss=per_token):
        self.loss, self.given = loss, []

    def __call__(self, model, batch):
        self.given.append(batch)
        return self.loss(model, batch)


class Items(Dataset):
    """A torch Dataset whose rows are made by a function of their number."""

    def __init__(self, row, num=24):
        self.row, self.num = row, num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        return self.row(index)


def labels(prompt=5):
    found = ids().clone()
    found[:, :prompt] = -100
    return found


def table(**columns):
    return datasets.Dataset.from_dict({"input_ids": ids().tolist(), **columns})


# -- whole rows -------------------------------------------------------------------------------------------------------

WITH_LABELS = {
    "table": lambda: table(labels=labels().tolist()),
    "torch table": lambda: table(labels=labels().tolist()).with_format("torch"),
    "table with a transform": lambda: table(labels=labels().tolist()).with_transform(
        lambda rows: {key: [torch.tensor(row) for row in column] for key, column in rows.items()}
    ),
    "Dataset of dicts": lambda: Items(lambda i: {"input_ids": ids()[i], "labels": labels()[i]}),
    "list of dicts": lambda: [{"input_ids": ids()[i].tolist(), "labels": labels()[i].tolist()} for i in range(24)],
    "dict of tensors": lambda: {"input_ids": ids(), "labels": labels()},
    "dict of int32 arrays": lambda: {"input_ids": ids().int().numpy(), "labels": labels().int().numpy()},
    "DataLoader": lambda: DataLoader(Items(lambda i: {"input_ids": ids()[i], "labels": labels()[i]}), batch_size=3),
    "DataLoader with a collate_fn": lambda: DataLoader(
        ids(), collate_fn=lambda rows: {"input_ids": torch.stack(rows), "labels": masked_prompt(torch.stack(rows))}
    ),
    "Subset": lambda: Subset(table(labels=labels().tolist()), range(24)),
    "data frame": lambda: frame({"input_ids": ids().tolist(), "labels": labels().tolist()}),
}


def masked_prompt(rows):
    return rows.masked_fill(torch.arange(9) < 5, -100)


def frame(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


@pytest.mark.parametrize("form", WITH_LABELS)
def test_a_loss_gets_all_columns(form):
    loss = Watched()
    tree = run(make(), WITH_LABELS[form](), loss_fn=loss, num_draws=1)
    assert all(set(batch) == {"input_ids", "labels"} for batch in loss.given)
    assert all(batch["labels"].dtype == torch.int64 for batch in loss.given)
    expected = run(make(), ids(), num_draws=1)["trace/loss"].to_numpy()
    expected[..., :4] = np.nan
    np.testing.assert_allclose(tree["trace/loss"][:, :, 0], expected[:, :, 0], rtol=1e-5)


@pytest.mark.parametrize("chains", WAYS)
@pytest.mark.parametrize("loss", [None, per_token])
def test_labels_of_minus_100_count_nowhere(loss, chains):
    """The run is that of losses of the later tokens alone: trace, observables, initial losses, coefficient."""
    data = {"input_ids": ids(), "labels": labels()}
    tree = run(make(), data, {"seen": data}, loss_fn=loss, chains=chains)

    def later(model, batch):
        return per_token(model, batch)[:, 4:]

    short = run(make(), ids(), {"seen": ids()}, loss_fn=later, loss_dims=("later",), chains=chains)
    for name in ("trace/loss", "observables/seen/loss", "trace/init_loss", "observables/seen/init_loss"):
        got, wanted = tree[name].to_numpy(), short[name].to_numpy()
        assert np.isnan(got[..., :4]).all(), name
        np.testing.assert_allclose(got[..., 4:], wanted, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(tree["trace/init_loss_mean"], short["trace/init_loss_mean"], rtol=1e-5)
    np.testing.assert_allclose(tree.slt.llc()["llc_mean"], short.slt.llc()["llc_mean"], rtol=1e-3)


@pytest.mark.parametrize("chains", WAYS)
def test_minibatches_of_their_own_have_their_own_masks(chains):
    ragged = labels()
    ragged[::2] = ids()[::2]
    data = {"input_ids": ids(), "labels": ragged}
    options = {"match_sampling_input_ids_across_chains": False, "chains": chains}
    tree = run(make(), data, loss_fn=per_token, **options)
    rows = tree["trace/sequence_id"].to_numpy()
    masked = np.isnan(tree["trace/loss"][0].to_numpy())
    np.testing.assert_array_equal(masked[..., :4].all(-1), rows % 2 == 1)
    assert not masked[..., 4:].any()


@pytest.mark.parametrize("chains", WAYS)
def test_masks_and_labels_together(chains):
    mask = (torch.arange(9) < 7).long().expand(24, 9)
    data = {"input_ids": ids(), "attention_mask": mask, "labels": labels()}
    own = run(make(Masked), data, loss_fn=per_token, chains=chains)
    default = run(make(Masked), data, chains=chains)
    for tree in (own, default):
        assert (
            np.isnan(tree["trace/loss"].to_numpy()).all((0, 1, 2, 3)).tolist() == [True] * 4 + [False] * 2 + [True] * 2
        )
    np.testing.assert_allclose(own["trace/loss"], default["trace/loss"], rtol=1e-5)


def test_the_chunked_loss_has_them_too():
    data = {"input_ids": ids(), "labels": labels()}
    chunked, plain = run(make(), data, save_metrics=True), run(make(), data, loss_fn=per_token, save_metrics=True)
    assert '"loss": "chunked"' in chunked.attrs["provenance"]
    np.testing.assert_allclose(chunked["trace/loss"], plain["trace/loss"], rtol=1e-5)
    np.testing.assert_allclose(chunked["metrics/unscaled_grad"], plain["metrics/unscaled_grad"], rtol=1e-4)


def test_losses_of_all_tokens():
    def tagged(model, batch):
        return functional.cross_entropy(
            model(batch["input_ids"]).transpose(1, 2), batch["labels"].clamp(min=0), reduction="none"
        )

    data = {"input_ids": ids(), "labels": labels()}
    tree = run(make(), data, {"seen": data}, loss_fn=tagged)
    assert tree["trace/loss"].dims[-1] == tree["observables/seen/loss"].dims[-1] == "token"
    assert np.isnan(tree["trace/loss"].to_numpy()).all((0, 1, 2, 3)).tolist() == [True] * 5 + [False] * 4
    assert np.isfinite(tree.slt.llc()["llc_mean"])


@pytest.mark.parametrize("chains", WAYS)
def test_classes_of_texts(chains):
    data = table(attention_mask=torch.ones(24, 9, dtype=torch.long).tolist(), label=[i % 5 for i in range(24)])

    def classified(model, batch):
        assert set(batch) == {"input_ids", "attention_mask", "label"}
        return functional.cross_entropy(model(batch["input_ids"])[:, -1], batch["label"], reduction="none")

    tree = run(make(), data, {"seen": data}, loss_fn=classified, chains=chains)
    assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch")
    assert not tree["trace/loss"].isnull().any()
    np.testing.assert_array_equal(
        tree["observables/seen/token_ids"], ids()[tree["observables/seen/sequence_id"].to_numpy()]
    )


def test_nothing_but_token_ids_is_one_tensor():
    loss = Watched()
    run(make(), table(), loss_fn=loss, num_draws=1)
    assert all(isinstance(batch, torch.Tensor) for batch in loss.given)


LABELS_REFUSED = {
    "shifted": (ids().roll(-1, 1), r"`labels` of `dataset` hold \d+ where `input_ids` hold \d+ .*pass `loss_fn=`"),
    "of another length": (labels()[:, :4], r"`labels` of `dataset` have shape \(\d+, 4\), `input_ids` \(\d+, 9\)"),
    "none that counts": (torch.full((24, 9), -100), r"no token of `dataset` counts"),
}


@pytest.mark.parametrize("name", LABELS_REFUSED)
def test_labels_that_are_no_next_tokens(name):
    wrong, message = LABELS_REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        run(make(), {"input_ids": ids(), "labels": wrong})


def test_another_dim_of_the_same_length_is_not_masked():
    def by_class(model, batch):
        return model(batch["input_ids"]).mean(1)[:, :9].square()

    tree = run(make(), {"input_ids": ids(), "labels": labels()}, loss_fn=by_class, loss_dims=("class",))
    assert tree["trace/loss"].sizes["class"] == 9
    assert not tree["trace/loss"].isnull().any()


def test_classes_are_no_concern_of_the_next_token():
    same_numbers(run(make(), {"input_ids": ids(), "labels": torch.arange(24)}), run())


# -- formats of tables ------------------------------------------------------------------------------------------------


def test_columns_of_a_format_are_honoured():
    data = table(attention_mask=(torch.arange(9) < 6).long().expand(24, 9).tolist())
    assert run(make(Masked), data)["trace/loss"].isnull().any()
    data.set_format("torch", columns=["input_ids"])
    same_numbers(run(make(Masked), data), run(make(Masked)))
    loss = Watched()
    run(make(), data, loss_fn=loss, num_draws=1)
    assert all(isinstance(batch, torch.Tensor) for batch in loss.given)
    data.set_format("torch", columns=["input_ids"], output_all_columns=True)
    assert run(make(Masked), data)["trace/loss"].isnull().any()


def test_a_dtype_of_a_format_is_honoured():
    data = datasets.Dataset.from_dict({"x": [[float(i)] for i in range(24)]}).with_format("torch", dtype=torch.float64)
    loss = Watched(lambda model, batch: model(batch["x"].float()).square().mean(1))
    run(nn.Linear(1, 1), data, loss_fn=loss, num_draws=1)
    assert loss.given[0]["x"].dtype == torch.float64


def test_an_array_in_a_store():
    zarr = pytest.importorskip("zarr")
    same_numbers(run(make(), zarr.array(ids().numpy())), run())


def test_pictures():
    image = pytest.importorskip("PIL.Image")
    pictures = [image.fromarray(np.full((4, 4), n, np.uint8)) for n in range(24)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": [n % 3 for n in range(24)]}, features=columns)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def classified(model, batch):
        return functional.cross_entropy(model(batch["image"].float().flatten(1) / 24), batch["label"], reduction="none")

    expected = run(model, data, loss_fn=classified)
    items = [{"image": picture, "label": n % 3} for n, picture in enumerate(pictures)]
    for form in (data.with_format("torch"), items, Items(items.__getitem__)):
        same_numbers(run(model, form, loss_fn=classified), expected)


def test_collators_of_transformers():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(n): n for n in range(23)}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="0", eos_token="1", mask_token="2"
    )
    texts = [{"input_ids": (ids()[n, : 4 + n % 6]).tolist()} for n in range(24)]
    causal = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    tree = run(make(Masked), DataLoader(texts, collate_fn=causal), num_init_loss_batches=6)
    rows = tree["trace/sequence_id"].to_numpy()
    counts = np.isfinite(tree["trace/loss"][0].to_numpy()).sum(-1)
    assert (counts <= 3 + rows % 6).all()
    assert (counts > 0).any()
    random_masks = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.5)
    with pytest.raises(InvalidInputError, match="collate_fn of `dataset` gives something else each time"):
        run(make(Masked), DataLoader(texts, collate_fn=random_masks), loss_fn=per_token)


def test_splits_are_asked_for():
    with pytest.raises(InvalidInputError, match=r"DatasetDict\) holds the splits 'train', 'test': pass one"):
        run(make(), datasets.DatasetDict({"train": table(), "test": table()}))
    with pytest.raises(InvalidInputError, match=r"holds the splits 'a'"):
        run(make(), {"a": TensorDataset(ids())})


# -- loaders ----------------------------------------------------------------------------------------------------------


def test_a_sampler_chooses_the_rows():
    loader = DataLoader(ids(), sampler=SubsetRandomSampler(range(3, 11)))
    same_numbers(run(make(), loader), run(make(), ids()[3:11]))
    same_numbers(
        run(make(), DataLoader(ids(), batch_sampler=BatchSampler(loader.sampler, 3, True))), run(make(), loader)
    )
    backwards = DataLoader(ids(), sampler=list(range(23, -1, -1)))
    same_numbers(run(make(), backwards, shuffle=False), run(make(), ids().flip(0), shuffle=False))


def test_a_samplers_generator_is_left_alone():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    run(make(), DataLoader(ids(), sampler=SubsetRandomSampler(range(8), generator=generator)), num_draws=1)
    assert torch.equal(generator.get_state(), before)


LOADERS_REFUSED = {
    "weights": (lambda: {"sampler": WeightedRandomSampler([1.0] * 24, 24)}, r"sampler \(WeightedRandomSampler\)"),
    "replacement": (lambda: {"sampler": RandomSampler(ids(), replacement=True)}, r"sampler \(RandomSampler\) chooses"),
    "some": (lambda: {"sampler": RandomSampler(ids(), num_samples=9)}, r"sampler \(RandomSampler\) chooses other rows"),
    "batches": (
        lambda: {"batch_sampler": [[0, 1], [2, 3]]},
        r"batch_sampler \(list\) decides which rows come together",
    ),
    "no batches": (lambda: {"batch_size": None}, r"batch_size=None"),
    "random collation": (
        lambda: {"collate_fn": lambda rows: torch.stack(rows)[:, torch.randperm(9)]},
        r"collate_fn of `dataset` gives something else each time",
    ),
    "collation across rows": (
        lambda: {"collate_fn": lambda rows: torch.stack(rows).sort(0).values},
        r"collate_fn of `dataset` makes something else of a row beside other rows",
    ),
    "collation to one number": (
        lambda: {"collate_fn": lambda rows: {"input_ids": torch.stack(rows), "n": torch.tensor(len(rows))}},
        r"must give one entry for each row .* it gave \(\) under 'n'",
    ),
}


@pytest.mark.parametrize("name", LOADERS_REFUSED)
def test_what_a_loader_decides_beyond_rows_is_refused(name):
    make_options, message = LOADERS_REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        run(make(), DataLoader(ids(), **make_options()))


def test_a_collate_fn_that_pads():
    texts = [ids()[i, : 4 + i % 6] for i in range(24)]

    def pad(rows):
        width = max(map(len, rows))
        tokens = torch.stack([functional.pad(row, (0, width - len(row))) for row in rows])
        mask = torch.stack([functional.pad(torch.ones(len(row)), (0, width - len(row))) for row in rows])
        return {"input_ids": tokens, "attention_mask": mask}

    tree = run(make(Masked), DataLoader(texts, batch_size=2, collate_fn=pad), num_init_loss_batches=6)
    counts = np.isfinite(tree["trace/loss"][0].to_numpy()).sum(-1)
    assert (counts == 3 + tree["trace/sequence_id"].to_numpy() % 6).all()


# -- rows of any structure --------------------------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "x y")


@dataclasses.dataclass
class Point:
    x: torch.Tensor
    y: int


def point(i):
    return torch.tensor([float(i), 1.0, i**0.5])


def squared(model, x, y):
    return (model(x)[:, 0] - y).square()


STRUCTURES = {
    "named tuples": (Items(lambda i: Pair(point(i), float(i))), lambda m, b: squared(m, b.x, b.y.float())),
    "named tuple of columns": (Pair(torch.stack([point(i) for i in range(24)]), torch.arange(24.0)),
                               lambda m, b: squared(m, b.x, b.y)),
    "tuples with texts": (Items(lambda i: (point(i), i, f"row {i}")), lambda m, b: squared(m, b[0], b[1])),
    "lists": (Items(lambda i: [point(i), i]), lambda m, b: squared(m, b[0], b[1])),
    "dicts in dicts": (
        Items(lambda i: {"of": {"x": point(i)}, "y": i, "id": f"r{i}", "more": None}),
        lambda m, b: squared(m, b["of"]["x"], b["y"]),
    ),
    "columns in columns": (
        {"of": {"x": torch.stack([point(i) for i in range(24)])}, "y": list(range(24))},
        lambda m, b: squared(m, b["of"]["x"], b["y"]),
    ),
    "objects": (
        Items(lambda i: Point(point(i), i)),
        lambda m, b: squared(m, torch.stack([each.x for each in b]), torch.tensor([float(each.y) for each in b])),
    ),
    "arrays": (Items(lambda i: {"x": point(i).numpy(), "y": np.int32(i)}), lambda m, b: squared(m, b["x"], b["y"])),
    "joined": (
        ConcatDataset([Items(lambda i: (point(i), i), 12), Items(lambda i: (point(i + 12), i + 12), 12)]),
        lambda m, b: squared(m, *b),
    ),
}  # fmt: skip


def regression():
    return {"x": torch.stack([point(i) for i in range(24)]), "y": torch.arange(24.0)}


def linear():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.bias.fill_(0.2)
    return model


@pytest.mark.parametrize("name", STRUCTURES)
def test_rows_of_any_structure(name, tmp_path):
    data, loss = STRUCTURES[name]
    options = {"loss_fn": loss, "lr": 1e-5, "num_draws": 2}
    tree = run(linear(), data, {"seen": data}, output_path=tmp_path / "run.zarr", **options)
    expected = run(
        linear(),
        regression(),
        {"seen": regression()},
        **{**options, "loss_fn": lambda m, b: squared(m, b["x"], b["y"])},
    )
    np.testing.assert_allclose(tree["trace/loss"], expected["trace/loss"], rtol=1e-6)
    np.testing.assert_allclose(tree["observables/seen/loss"], expected["observables/seen/loss"], rtol=1e-6)
    again = run(linear(), data, {"seen": data}, output_path=tmp_path / "run.zarr", **options)  # the very same rows
    same_numbers(again.load(), tree.load())


def test_texts_of_chains_with_minibatches_of_their_own_run_one_after_the_other():
    data = {"input_ids": ids(), "text": [f"row {n}" for n in range(24)]}
    loss = Watched()
    run(make(), data, loss_fn=loss, chains="auto", match_sampling_input_ids_across_chains=False, num_draws=1)
    assert loss.given[-1]["text"][0].startswith("row ")
    with pytest.raises(InvalidInputError, match="parts that are no tensors cannot be stacked"):
        run(make(), data, loss_fn=loss, chains="vectorized", match_sampling_input_ids_across_chains=False)


class Lying(IterableDataset):
    def __len__(self):
        return 24

    def __iter__(self):
        yield from ids()[:7]


class Endless(IterableDataset):
    """Longer than it says, as a stream that is cut."""

    def __len__(self):
        return 24

    def __iter__(self):
        n = 0
        while True:
            yield ids()[n % 24]
            n += 1


ROWS_REFUSED = {
    "random rows": (Items(lambda i: torch.randint(23, (9,))), r"gives other rows each time it is read"),
    "a random transform": (
        table().with_transform(lambda rows: {"input_ids": [torch.randint(23, (9,)) for _ in rows["input_ids"]]}),
        r"gives other rows each time it is read",
    ),
    "keys in some rows": (
        Items(lambda i: {"input_ids": ids()[i], **({"extra": 1} if i % 2 else {})}),
        r"must all have the same keys; some have no 'extra'",
    ),
    "shapes": (Items(lambda i: torch.zeros(3, 4 + i % 2)), r"is ragged: rows have different shapes. Crop or resize"),
    "a set": (set(range(30)), r"have no number: pass a list"),
    "fewer rows than it says": (Lying(), r"says that it has 24 rows, and gives 7"),
    "no such row": ({1: 2}.keys(), r"have no number|has 1 rows|cannot be read"),
    "rows that fail": (Items(lambda i: {}["x"]), r"cannot be read by their number: KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS_REFUSED)
def test_rows_that_are_refused(name):
    data, message = ROWS_REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        run(make(), data, loss_fn=per_token)


def test_a_stream_is_read_to_the_length_it_has():
    same_numbers(run(make(), Endless()), run())


def test_beside_token_ids_rows_of_different_shapes_are_a_list():
    loss = Watched()
    run(make(), Items(lambda i: {"input_ids": ids()[i], "words": torch.arange(i + 1)}), loss_fn=loss, num_draws=1)
    assert [type(part) for part in loss.given[0]["words"]] == [torch.Tensor] * len(loss.given[0]["words"])


# -- any structure, any rows ------------------------------------------------------------------------------------------


def structures():
    leaf = st.sampled_from(["number", "vector", "text", "nothing", "array", "flag"])
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=5,
    )


def built(structure, i):
    """Return a row of a structure, told apart by its number."""
    if isinstance(structure, dict):
        return {key: built(part, i) for key, part in structure.items()}
    if isinstance(structure, tuple):
        parts = [built(part, i) for part in structure]
        return Pair(*parts) if isinstance(structure, Pair) else tuple(parts)
    kinds = {"number": i, "vector": torch.full((2,), float(i)), "text": f"t{i}", "nothing": None}
    return {**kinds, "array": np.full((2, 3), i, np.int16), "flag": i % 2 == 0}[structure]


def flat(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in flat(part)]
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


@settings(max_examples=80, deadline=None)
@given(structure=structures(), chosen=st.lists(st.integers(0, 11), min_size=1, max_size=8), as_list=st.booleans())
def test_stacked_rows_are_the_rows(structure, chosen, as_list):
    data = Items(lambda i: built(structure, i), 12)
    source = row_source([data[i] for i in range(12)] if as_list else data, name="`dataset`")
    assert source.num_rows == 12
    rows = source.read(np.array(chosen))
    batch = rows.batch(np.array(chosen)).data
    for (_, leaf), *parts in zip(leaves(batch), *(flat(built(structure, i)) for i in chosen), strict=True):
        assert len(leaf) == len(chosen)
        for got, wanted in zip(leaf, parts, strict=True):
            if isinstance(wanted, str | None):
                assert got == wanted
            else:
                np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
    if isinstance(structure, Pair):
        assert isinstance(batch, Pair)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_exactly_the_tokens_that_count_are_finite(data):
    num = 12
    tokens = ids()[:num]
    mask = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=num, max_size=num)))[:, None] > torch.arange(9)
    ignored = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=num, max_size=num))
    )
    columns = {"input_ids": tokens, "attention_mask": mask.long(), "labels": tokens.masked_fill(ignored, -100)}
    counted = (mask[:, 1:] & ~ignored[:, 1:]).numpy()
    if not counted.any():
        return
    try:
        tree = run(make(Masked), columns, {"seen": (columns, 3)}, num_draws=1, num_chains=1, chains="sequential")
    except InvalidInputError:  # of the rows that are used none has a token that counts
        reject()
    seen = tree["observables/seen"]
    rows = seen["sequence_id"].to_numpy()
    np.testing.assert_array_equal(np.isfinite(seen["loss"][0, 0, 0].to_numpy()), counted[rows])
    np.testing.assert_array_equal(np.isfinite(seen["init_loss"].to_numpy()), counted[rows])
