"""Where padding stands changes nothing: not the losses of text, not the learning coefficient."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from devinterp import sample
from support.small_models import SHORT, VOCABULARY, WIDTH, TinyModel, ids

transformers = pytest.importorskip("transformers")

WIDE = 14
LENGTHS = np.arange(24) % 6 + 4


def gpt2() -> nn.Module:
    """Positions are learned."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    """Positions are rotations."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config)


def roberta() -> nn.Module:
    """Positions are learned, counted from the token ids, and begin at 2: they must be left to the model."""
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, is_decoder=True, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return transformers.RobertaForCausalLM(config)


def made(kind: Any) -> nn.Module:
    """Return a model with large weights, so that positions matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def padded(side: str, lengths: np.ndarray = LENGTHS) -> dict[str, torch.Tensor]:
    """Return the first tokens of each text, padded with token 0 to one length; `inside` leaves a gap in each."""
    tokens, mask = torch.zeros(24, WIDE, dtype=torch.long), torch.zeros(24, WIDE, dtype=torch.long)
    for n, length in enumerate(lengths):
        columns = {
            "right": np.arange(length),
            "left": np.arange(WIDE - length, WIDE),
            "inside": np.concatenate([np.arange(2), np.arange(WIDE - length + 2, WIDE)]),
        }[side]
        tokens[n, columns], mask[n, columns] = ids()[n, :length].clamp(min=2), 1
    return {"input_ids": tokens, "attention_mask": mask}


def run(model: nn.Module, data: Any, **changes: Any) -> xr.DataTree:
    return sample(model, data, {"text": (data, 2)}, **{**SHORT, "num_draws": 6, "paired": True, **changes})


def text(losses: xr.DataArray) -> np.ndarray:
    """Return unmasked losses of rows one after the other."""
    values = losses.to_numpy()
    return values[np.isfinite(values)]


def same(one: xr.DataTree, other: xr.DataTree) -> None:
    for path in ("trace/loss", "trace/row_loss", "observables/text/loss", "observables/text/init_loss"):
        np.testing.assert_allclose(text(one[path]), text(other[path]), rtol=2e-5, err_msg=path)
    a, b = one.slt.llc(), other.slt.llc()
    rounding = 20 * 2**-22  # n_beta times the rounding of losses near 4
    for name in ("llc_mean", "paired_llc_mean", "observable_llc_mean"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=rounding, err_msg=name)


WAYS = {
    "sequential": {"chains": "sequential"},
    "prefix": {"chains": "sequential", "weight_restrictions": ["l1"]},
    "vectorized": {"chains": "vectorized"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [gpt2, llama])
def test_padding_on_the_left_is_as_on_the_right(kind, way):
    model = made(kind)
    left, right = (run(model, padded(side), **WAYS[way]) for side in ("left", "right"))
    same(left, right)
    paths = json.loads(left.attrs["provenance"])["paths"]
    assert paths["positions"] == "count tokens of text"
    if way == "prefix":
        assert paths["prefix/l1"] == "1 layers reused"
    assert "positions" not in json.loads(right.attrs["provenance"])["paths"]


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [gpt2, llama])
def test_padding_on_the_left_is_as_no_padding(kind, way):
    model, lengths = made(kind), np.full(24, 9)
    left = run(model, padded("left", lengths), **WAYS[way])
    assert np.isnan(left["trace/loss"].to_numpy()).any()
    same(left, run(model, ids().clamp(min=2), **WAYS[way]))


@pytest.mark.parametrize("kind", [gpt2, llama])
def test_padding_inside(kind):
    """What follows the gap is predicted as if there were none; the first token behind it is not predicted."""
    model = made(kind)
    inside, right = (run(model, padded(side), record="token") for side in ("inside", "right"))
    gaps, whole = (tree["observables/text/init_loss"].to_numpy() for tree in (inside, right))
    for row, length in enumerate(LENGTHS[inside["observables/text/sequence_id"].to_numpy()]):
        np.testing.assert_allclose(gaps[row, 0], whole[row, 0], rtol=2e-5)
        np.testing.assert_allclose(gaps[row, WIDE - length + 2 :], whole[row, 2 : length - 1], rtol=2e-5)
        assert np.isnan(gaps[row, 1 : WIDE - length + 2]).all()


def test_a_model_that_counts_in_its_own_way_is_left_alone():
    left, right = (run(made(roberta), padded(side)) for side in ("left", "right"))
    same(left, right)
    assert json.loads(left.attrs["provenance"])["paths"]["positions"] == "the model's own"


class Positions(TinyModel):
    """A plain module with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(32, WIDTH)

    def forward(self, ids, attention_mask=None, position_ids=None):
        if position_ids is None:
            position_ids = torch.arange(ids.shape[1])
        return self.head(torch.tanh(self.mix(self.embed(ids) + self.positions(position_ids))))


class NotTold(Positions):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


def test_plain_modules():
    model = made(Positions)
    same(*(run(model, padded(side)) for side in ("left", "right")))
    with pytest.warns(UserWarning, match=r"differ from those .* NotTold counts padding as text .* Pad on the right"):
        tree = run(made(NotTold), padded("left"))
    assert "depend on where padding stands" in json.loads(tree.attrs["provenance"])["paths"]["positions"]
    run(made(NotTold), padded("right"))
    run(made(NotTold), ids())


class Wrapped(nn.Module):
    """Hands on whatever it is given, as wrappers of adapted models do."""

    def __init__(self, inner: type[nn.Module]) -> None:
        super().__init__()
        self.inner = inner()

    def forward(self, ids, attention_mask=None, **options):
        return self.inner(ids, attention_mask=attention_mask, **options)


def test_wrapped_models():
    model = made(lambda: Wrapped(Positions))
    same(*(run(model, padded(side)) for side in ("left", "right")))
    with pytest.warns(UserWarning, match="Wrapped counts padding as text"):  # and fails when it is told
        run(made(lambda: Wrapped(NotTold)), padded("left"))


def test_observables_padded_on_the_left_alone():
    """The minibatches are not padded: their losses are bit for bit those without the observable."""
    model, settings = made(gpt2), {**SHORT, "num_draws": 4}
    plain = sample(model, ids(), {"a": ids()}, **settings)
    both = sample(model, ids(), {"a": ids(), "b": padded("left")}, **settings)
    right = sample(model, ids(), {"b": padded("right")}, **settings)
    np.testing.assert_array_equal(both["trace/loss"], plain["trace/loss"])
    np.testing.assert_array_equal(both["observables/a/loss"], plain["observables/a/loss"])
    np.testing.assert_allclose(text(both["observables/b/loss"]), text(right["observables/b/loss"]), rtol=2e-5)


def test_such_an_observable_can_be_added(tmp_path):
    model, settings = made(gpt2), {**SHORT, "num_draws": 4, "output_path": tmp_path / "run.zarr"}
    first = sample(model, padded("right"), {"a": padded("right")}, **settings).load()
    more = sample(model, padded("right"), {"a": padded("right"), "b": padded("left")}, **settings)
    np.testing.assert_array_equal(more["trace/loss"], first["trace/loss"])
    np.testing.assert_allclose(text(more["observables/b/loss"]), text(more["observables/a/loss"]), rtol=2e-5)


def test_rows_of_which_no_token_is_predicted_behind_padding():
    """There is nothing to compare: a single token behind the gap predicts nothing, and nothing predicts it."""
    data = padded("right")
    data["attention_mask"][::2] = torch.arange(WIDE).eq(0) | torch.arange(WIDE).eq(2) | torch.arange(WIDE).eq(1)
    data["attention_mask"][::2, 4] = 1
    tree = run(made(NotTold), data)
    assert "positions" not in json.loads(tree.attrs["provenance"])["paths"]
