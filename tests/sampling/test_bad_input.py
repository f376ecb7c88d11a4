"""What cannot be used is refused with a message that helps, before anything is sampled or written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import sample
from devinterp.errors import InvalidInputError
from devinterp.slt.sampler import sample_single_chain
from support.small_models import VOCABULARY, TinyModel, ids, make, run, same_numbers, snapshot

# The run-time type checker would refuse much of this first.
pytestmark = pytest.mark.usefixtures("unchecked")

datasets = pytest.importorskip("datasets")


def table(**columns):
    return datasets.Dataset.from_dict(columns)


def ragged():
    return [row[: 4 + n % 3].tolist() for n, row in enumerate(ids())]


def spoiled(value, parameter="mix.weight"):
    model = make()
    with torch.no_grad():
        model.get_parameter(parameter).flatten()[1] = value
    return model


def huge():
    """Finite weights, and a loss that is not."""
    model = make(dtype=torch.float16)
    with torch.no_grad():
        model.head.weight.fill_(6e4)
    return model


def with_id(value):
    found = ids()
    found[5, 2] = value
    return found


def per_token(model, batch):
    return nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")


class NoLogits(TinyModel):
    def forward(self, ids):
        return super().forward(ids).mean(-1)


EMPTY = torch.zeros(6, dtype=torch.bool)
MASKS = "masks"

DATA = {
    "no input_ids": (
        {"dataset": table(text=["a"] * 24)},
        r"must hold numbers; it holds <U1|`dataset` has no `input_ids` column; it has 'text'",
    ),
    "another column of numbers": (
        {"dataset": table(tokens=ids().tolist())},
        r"`dataset` has no `input_ids` column; it has 'tokens'\. Tokenize it, .*tokenize_and_concatenate.*`loss_fn=`",
    ),
    "no input_ids in an observable": (
        {"observables": {"code": table(tokens=ids().tolist())}},
        r"observable 'code' has no `input_ids` column; it has 'tokens'",
    ),
    "ragged table": (
        {"dataset": table(input_ids=ragged())},
        r"column 'input_ids' of `dataset` is ragged: rows have lengths 4 to 6\. Cut or pack them to one length",
    ),
    "ragged lists": ({"dataset": ragged()}, r"`dataset` is ragged: rows have lengths 4 to 6.*`attention_mask`"),
    "ragged list of tensors": (
        {"dataset": [torch.tensor(row) for row in ragged()]},
        r"`dataset` is ragged: rows have lengths 4 to 6",
    ),
    "ragged object array": ({"dataset": np.array(ragged(), dtype=object)}, r"`dataset` is ragged"),
    "ragged observable": ({"observables": {"code": ragged()}}, r"observable 'code' is ragged"),
    "length 1": (
        {"dataset": ids()[:, :1]},
        r"sequences of `dataset` have length 1; at least 2 tokens are needed to predict one",
    ),
    "length 0": ({"dataset": ids()[:, :0]}, r"sequences of `dataset` have length 0"),
    "length 1 in an observable": (
        {"observables": {"code": ids()[:, :1]}},
        r"sequences of observable 'code' have length 1",
    ),
    "no rows": ({"dataset": ids()[:0]}, r"`dataset` has 0 rows, fewer than `batch_size` \(=4\)"),
    "empty list": ({"dataset": []}, r"`dataset` has 0 rows"),
    "empty dict": ({"dataset": {}}, r"`dataset` has 0 rows"),
    "a number": ({"dataset": torch.tensor(3)}, r"`dataset` has 0 rows"),
    "one sequence": (
        {"dataset": torch.arange(9)},
        r"token ids of shape \(sequence, token\); got torch.int64 of shape \(\d,\)",
    ),
    "three dims": ({"dataset": ids()[:, :, None]}, r"got torch.int64 of shape \(\d+, 9, 1\)"),
    "floats": ({"dataset": ids().float()}, r"whole-number token ids of shape \(sequence, token\); got torch.float32"),
    "pairs": ({"dataset": (ids(), ids())}, r"got rows of several tensors"),
    "a name": ({"dataset": "wikitext"}, r"`dataset` \(='wikitext'\) is a string: load and tokenize it first"),
    "a generator": (
        {"dataset": (row for row in ids())},
        r"`dataset` \(generator\) has no length: pass a dataset of known",
    ),
    "a stream": (
        {"dataset": table(input_ids=ids().tolist()).to_iterable_dataset()},
        r"`dataset` \(IterableDataset\) has no length.*Dataset\.from_list",
    ),
    "None": ({"dataset": None}, r"`dataset` \(NoneType\) has no length"),
    "beyond the vocabulary": (
        {"dataset": with_id(VOCABULARY)},
        r"`dataset` holds token id 23, outside the model's vocabulary \(0 to 22\): was it tokenized with the model's own",
    ),
    "negative id": (
        {"dataset": with_id(-100)},
        r"`dataset` holds token id -100, outside the model's vocabulary \(0 to 22\)",
    ),
    "beyond the vocabulary in an observable": (
        {"observables": {"code": (with_id(99), 6)}},
        r"observable 'code' holds token id 99, outside",
    ),
    "too small": (
        {"dataset": ids()[:3]},
        r"`dataset` has 3 rows, fewer than `batch_size` \(=4\): use a smaller batch or more data",
    ),
    "observable too small": (
        {"observables": {"code": (ids("code"), 7)}},
        r"observable 'code' has 24 rows, fewer than `batch_size` x `batches_per_draw` \(=4 x 7 = 28\): ask for fewer",
    ),
    "mask without ids": (
        {"dataset": {"attention_mask": ids()}},
        r"`dataset` has an `attention_mask` but no `input_ids`",
    ),
    "mask of another shape": (
        {"dataset": {"input_ids": ids(), "attention_mask": ids()[:, 1:]}},
        r"`attention_mask` of `dataset` has shape \(\d+, 8\), expected \(\d+, 9\)",
    ),
    "observables are no dict": (
        {"observables": [ids()]},
        r"`observables` must be a dict of names to datasets .* got list",
    ),
    "no batches": (
        {"observables": {"code": (ids(), 0)}},
        r"observable 'code': batches_per_draw \(=0\) must be a positive",
    ),
    "negative batches": (
        {"observables": {"code": (ids(), -2)}},
        r"batches_per_draw \(=-2\) must be a positive whole number",
    ),
    "batches are a bool": ({"observables": {"code": (ids(), True)}}, r"batches_per_draw \(=True\) must be a positive"),
}

COUNTS = [
    "num_chains",
    "num_draws",
    "batch_size",
    "num_steps_bw_draws",
    "num_init_loss_batches",
    "batches_per_draw",
    "gradient_accumulation_steps",
]
SETTINGS = {
    **{
        f"{name}={value}": ({name: value}, rf"`{name}` \(={value!r}\) must be a positive whole number")
        for name in COUNTS
        for value in (0, -1, 2.5, "3", None, True)
    },
    **{
        f"{name}={value}": ({name: value}, rf"`{name}` \(={value!r}\) must be a whole number, at least 0")
        for name in ("num_burnin_steps", "init_seed", "obs_seed")
        for value in (-1, 0.5, None)
    },
    **{
        f"lr={value}": ({"lr": value}, rf"`lr` \(={value!r}\) must be positive and finite")
        for value in (0.0, -1e-3, math.nan, math.inf)
    },
    "lr=True": ({"lr": True}, r"`lr` \(=True\) must be a number, positive and finite"),
    "lr='1e-3'": ({"lr": "1e-3"}, r"`lr` \(='1e-3'\) must be a number, positive and finite"),
    **{
        f"{name}={value}": ({name: value}, rf"`{given}` \(={value!r}\) must be at least 0 and finite")
        for name, given in [
            ("n_beta", "n_beta"),
            ("localization", "localization"),
            ("noise_level", "noise_level"),
            ("llc_weight_decay", "llc_weight_decay"),
            ("init_noise", "init_noise"),
        ]
        for value in (-1.0, math.nan, math.inf, -math.inf)
    },
    **{
        f"{name}='much'": ({name: "much"}, rf"`{name}` \(='much'\) must be a number")
        for name in ("lr", "n_beta", "localization", "bounding_box_size")
    },
    "bounding_box_size=0": ({"bounding_box_size": 0.0}, r"`bounding_box_size` \(=0\.0\) must be positive and finite"),
    "bounding_box_size<0": ({"bounding_box_size": -1.0}, r"`bounding_box_size` \(=-1\.0\) must be positive and finite"),
    "method": (
        {"sampling_method": "hmc"},
        r"(?s)`?sampling_method`? .*'hmc'.*rmsprop_sgld.*devinterp.*sgld.*devinterp",
    ),
    "option of the kernel": (
        {"sampling_method_kwargs": {"momentum": 0.9}},
        r"`sampling_method_kwargs` \(=\{'momentum': 0\.9\}\) do not fit 'sgld':.*momentum",
    ),
    "value of an option": (
        {"sampling_method": "rmsprop_sgld", "sampling_method_kwargs": {"alpha": 1.5}},
        r"`alpha` \(=1\.5\) must be at least 0 and below 1",
    ),
    "type of an option": (
        {"sampling_method": "rmsprop_sgld", "sampling_method_kwargs": {"alpha": "x"}},
        r"`sampling_method_kwargs` \(=\{'alpha': 'x'\}\) do not fit 'rmsprop_sgld'",
    ),
    "eps of another kernel": (
        {"rmsprop_eps": 0.1},
        r"`rmsprop_eps` can only be set when sampling_method='rmsprop_sgld'; got 'sgmcmc_sgld'",
    ),
    "alpha of another kernel": ({"rmsprop_alpha": 0.1}, r"`rmsprop_alpha` can only be set when"),
    "eps twice": (
        {"sampling_method": "rmsprop_sgld", "rmsprop_eps": 0.1, "sampling_method_kwargs": {"eps": 0.2}},
        r"rmsprop_eps \(=0\.1\) and sampling_method_kwargs\['eps'\] \(=0\.2\) are both set; specify only one",
    ),
    "alpha twice": (
        {"sampling_method": "rmsprop_sgld", "rmsprop_alpha": 0.1, "sampling_method_kwargs": {"rmsprop_alpha": 0.2}},
        r"specify only one",
    ),
    "device": ({"device": "cuda:99"}, r"`device` \(='cuda:99'\) is not available; available here: cpu"),
    "no device": ({"device": "abacus"}, r"`device` \(='abacus'\) is not available; available here: cpu"),
    "chains": ({"chains": "parallel"}, r"`chains` \(='parallel'\) must be one of 'auto', 'sequential', 'vectorized'"),
}

MODELS = {
    "no module": ({"model": "gpt2"}, r"`model` must be a torch\.nn\.Module; got str"),
    "no parameters": ({"model": nn.Tanh()}, r"Tanh has no parameters: there is nothing to sample"),
    "NaN": ({"model": spoiled(math.nan)}, r"parameter 'mix\.weight' of the model holds values that are not finite"),
    "infinite": ({"model": spoiled(math.inf, "head.bias")}, r"parameter 'head\.bias' of the model holds values that"),
    "infinite loss": ({"model": huge()}, r"the loss at the starting weights is not finite.*float16 overflows"),
    "no logits": ({"model": make(NoLogits)}, r"NoLogits must return logits of shape \(batch, token, vocabulary\)"),
    "adapter": ({"adapter": "jax"}, r"(?s)'jax'.*huggingface.*devinterp.*torch"),
}

LOSSES = {
    "no function": ({"loss_fn": 3}, r"`loss_fn` must be a function of \(model, batch\); got int"),
    "mean": (
        {"loss_fn": lambda m, b: per_token(m, b).mean()},
        r"`loss_fn` on `dataset` returned losses of shape \(\); expected \(2, 8\) for a batch of 2: return unreduced losses",
    ),
    "per sequence": (
        {"loss_fn": lambda m, b: per_token(m, b).mean(1)},
        r"`loss_fn` on `dataset` returned losses of shape \(2,\); expected \(2, 8\)",
    ),
    "one too long": (
        {"loss_fn": lambda m, b: m(b).mean(-1)},
        r"returned losses of shape \(2, 9\); expected \(2, 8\) for a batch of 2",
    ),
    "transposed": (
        {"loss_fn": lambda m, b: per_token(m, b).T},
        r"returned losses of shape \(8, 2\); expected \(2, 8\)",
    ),
    "a number": (
        {"loss_fn": lambda m, b: per_token(m, b).mean().item()},
        r"must return a float tensor of losses.*got float",
    ),
    "whole numbers": (
        {"loss_fn": lambda m, b: per_token(m, b).long()},
        r"must return a float tensor .* got torch\.int64",
    ),
    "nothing": ({"loss_fn": lambda m, b: None}, r"must return a float tensor of losses, one per sample; got NoneType"),
    "without gradient": ({"loss_fn": lambda m, b: per_token(m, b).detach()}, r"returned losses without a gradient"),
    "infinite": (
        {"loss_fn": lambda m, b: per_token(m, b) * math.inf},
        r"the loss at the starting weights is not finite",
    ),
    "infinite on an observable": (
        {
            "loss_fn": lambda m, b: per_token(m, b) * (math.inf if bool((b == 0).all(1).any()) else 1),
            "observables": {"code": torch.zeros(24, 9, dtype=torch.long)},
        },
        r"the loss of observable 'code' at the starting weights is not finite",
    ),
    "dims": ({"loss_dims": ("a", "b")}, r"trailing shape \(8,\), but `loss_dims` names 2 \(a, b\)"),
}

RESTRICTIONS = {
    "wrong shape": (
        {"param_masks": {"mix.bias": torch.ones(7, dtype=torch.bool)}},
        r"the mask of 'mix\.bias' has shape \(7,\), but the parameter has shape \(6,\)",
    ),
    "broadcastable shape": (
        {"param_masks": {"mix.weight": torch.ones(6, dtype=torch.bool)}},
        r"the mask of 'mix\.weight' has shape \(6,\), but the parameter has shape \(6, 6\)",
    ),
    "empty mask": (
        {"param_masks": {"mix.bias": EMPTY}},
        r"the mask of 'mix\.bias' selects no element: leave the name out, or mask something",
    ),
    "no masks": ({"param_masks": {}}, r"`param_masks` selects no weights of TinyModel"),
    "all left out": ({"param_masks": {"mix.bias": False}}, r"`param_masks` selects no weights of TinyModel"),
    "unknown parameter": (
        {"param_masks": {"mix.wieght": None}},
        r"'mix\.wieght' in `param_masks` is no parameter of TinyModel: did you mean 'mix\.weight'",
    ),
    "values": (
        {"param_masks": {"mix.bias": torch.full((6,), 0.5)}},
        r"must be boolean or hold only 0 and 1, got torch\.float32",
    ),
    "type": ({"param_masks": 3}, r"`param_masks` must be a mapping of parameter names to masks.*got int"),
    "both": (
        {"param_masks": {"mix.bias": None}, "weight_restrictions": {"full": None}},
        r"`param_masks` and `weight_restrictions` both say what is sampled: pass only one",
    ),
    "none": ({"weight_restrictions": {}}, r"`weight_restrictions` is empty: name at least one"),
    "no name": ({"weight_restrictions": {"": None}}, r"a name in `weight_restrictions` is empty"),
    "one of several": (
        {"weight_restrictions": {"full": None, "part": {"mix.bias": EMPTY}}},
        r"the mask of 'mix\.bias' selects no element",
    ),
}

NAMES = {
    name: (
        {"observables": {name: ids("code")}},
        rf"observable name {name!r} cannot name a group of the store".replace("\\", "\\\\"),
    )
    for name in ("a/b", "/", "", ".", "..", " code", "code ", "__code", "a\\b", "a:b", "a\nb", "x" * 201, "zarr.json")
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in [
        ("data", DATA),
        ("settings", SETTINGS),
        ("model", MODELS),
        ("loss", LOSSES),
        (MASKS, RESTRICTIONS),
        ("names", NAMES),
    ]
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name, tmp_path):
    changes, message = CASES[name]
    arguments = {"dataset": ids(), **changes}
    model = arguments.pop("model", None)
    model = make() if model is None else model
    before = snapshot(model) if isinstance(model, nn.Module) else None
    base = {"lr": 1e-3, "n_beta": 20.0, "num_chains": 2, "num_draws": 2, "batch_size": 4, "batches_per_draw": 1}
    with pytest.raises(InvalidInputError, match=message) as caught:
        sample(model, **{"chains": "sequential", **base, **arguments}, output_path=tmp_path / "new" / "run.zarr")
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == [], "nothing may be left at output_path"
    if before is not None:
        assert snapshot(model) == before


@pytest.mark.parametrize(
    ("first", "second"), [("Code", "code"), ("café", "cafe\u0301"), ("STRASSE", "straße"), ("pile-cc", "PILE-CC")]
)
def test_names_that_would_collide_on_some_disks(first, second):
    with pytest.raises(InvalidInputError, match="would be one on some file systems: rename one"):
        run(observables={first: ids("code"), second: ids("web")})


def test_names_that_v2_confused_are_kept_apart():
    names = ["pile-cc", "pile_cc", "pile.cc", "pile cc", "日本語", "loss", "trace", "a" * 200]
    tree = run(observables={name: ids("code") + n % 2 for n, name in enumerate(names)}, dataset=ids() % 22)
    assert sorted(tree["observables"].children) == sorted(names)
    starts = [tree[f"observables/{name}/init_loss"].to_numpy() for name in names[:2]]
    assert not np.array_equal(*starts)


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    options = {
        "lr": np.float32(1e-3).astype(float),
        "n_beta": np.float32(20),
        "localization": torch.tensor(5.0),
        "num_chains": np.int64(2),
        "num_draws": torch.tensor(4),
        "batch_size": np.int32(4),
        "init_seed": np.uint8(100),
    }
    found = run(**options, output_path=tmp_path / "run.zarr")
    expected = run(lr=float(np.float32(1e-3)), output_path=tmp_path / "other.zarr")
    same_numbers(found, expected)
    assert found.attrs["config"] == expected.attrs["config"]


def test_options_of_kernels_may_be_numbers_of_numpy(tmp_path):
    path, options = tmp_path / "run.zarr", {"sampling_method": "rmsprop_sgld"}
    found = run(**options, sampling_method_kwargs={"eps": np.float32(0.5)}, output_path=path)
    expected = run(
        **options, sampling_method_kwargs={"eps": 0.5}, output_path=path
    )  # the same run: one is refused else
    same_numbers(found, expected)
    same_numbers(run(**options, sampling_method_kwargs={"eps": 0.5}), expected)
    assert json.loads(expected.attrs["config"])["sampling_method_kwargs"] == {"eps": 0.5}


def test_restrictions_may_be_given_by_a_single_name():
    """A string is one name, not a list of letters."""
    with pytest.raises(InvalidInputError, match=r"'mix\.wieght'") as caught:
        run(weight_restrictions="mix.wieght")
    assert "'m'" not in str(caught.value)
    assert run(weight_restrictions="mix.weight")["restriction"].to_numpy().tolist() == ["mix.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, r"`lr` \(=-1\.0\) must be positive"),
        ({"num_draws": 0}, r"`num_draws` \(=0\) must be a positive whole number"),
        ({"sampling_method": "hmc"}, r"hmc"),
        ({"dataset": ids()[:2]}, r"`dataset` has 2 rows, fewer than `batch_size`"),
        ({"ref_model": spoiled(math.nan)}, r"parameter 'mix\.weight' of the model holds values that are not finite"),
        ({"ref_model": nn.Tanh()}, r"Tanh has no parameters"),
        ({"param_masks": {"mix.bias": EMPTY}}, r"selects no element"),
        ({"evaluate": lambda m, b: per_token(m, b).mean()}, r"must return \(loss, results\)"),
        (
            {"evaluate": lambda m, b: (per_token(m, b).mean().item(), None)},
            r"must return \(loss, results\) with a loss tensor",
        ),
        ({"device": "abacus"}, r"`device` \(='abacus'\) is not available"),
    ],
)
def test_a_single_chain_refuses_the_same(changes, message):
    arguments = {
        "ref_model": make(),
        "dataset": ids(),
        "evaluate": lambda m, b: (per_token(m, b).mean(), None),
        "lr": 1e-3,
        "n_beta": 1.0,
        "num_draws": 2,
        "batch_size": 4,
    }
    with pytest.raises(InvalidInputError, match=message):
        sample_single_chain(**{**arguments, **changes})


def test_a_single_chain_that_diverges_says_where():
    with pytest.raises(FloatingPointError, match=r"the loss is not finite at step \d+: use a smaller `lr`"):
        sample_single_chain(
            make(),
            ids(),
            lambda m, b: (per_token(m, b).mean(), None),
            lr=1e4,
            n_beta=1.0,
            localization=1e6,
            num_draws=80,
            batch_size=4,
        )
