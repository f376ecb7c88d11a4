"""Losses in row chunks are the plain ones, gradients included, and are switched off where they would not be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from devinterp.models.adapters.huggingface import HuggingFaceAdapter
from devinterp.sampling.engines.chunked_check import choose_loss
from devinterp.sampling.losses import chunked_cross_entropy as chunked
from devinterp.sampling.losses.loss import ChunkedNextTokenLoss, NextTokenLoss
from devinterp.sampling.losses.unembedding import NoUnembedding, Unembedding, find_unembedding
from support import model_zoo as zoo
from support.engines import TOKENS, assert_close, measured, paths_of, plain, spec_of, zoo_params
from support.small_models import VOCABULARY, TinyModel, ids, make, run

#: Types whose losses come from logits, and why.
PLAIN = {"prophetnet": "no linear module gives the logits"}
#: Types that have gradients in train mode only, where they are random.
NO_GRADIENTS = {"reformer"}


@pytest.fixture
def chunks_of():
    """Set how many rows a chunk has."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda num: small_chunks(patch, num)


def small_chunks(patch, num):
    patch.setattr(chunked, "_CPU_CHUNK_BYTES", 0)
    patch.setattr(chunked, "_MIN_CHUNK_ROWS", num)


@st.composite
def ends(draw):
    """Hidden states, an unembedding, targets and row weights in float64, some of them zero, and how to cut the rows."""
    rows, vocabulary, width = draw(st.integers(1, 40)), draw(st.integers(2, 50)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(rows, width), (vocabulary, width), (vocabulary,)]
    )
    return {
        "hidden": hidden * draw(st.sampled_from([0.1, 1.0, 10.0])),
        "weight": weight,
        "bias": bias if draw(st.booleans()) else None,
        "targets": torch.randint(vocabulary, (rows,), generator=generator),
        "row_weights": torch.rand(rows, generator=generator) * (torch.rand(rows, generator=generator) < 0.7),
        "scale": draw(st.sampled_from([1.0, 0.0625, 3.0, -0.5])),
        "cap": draw(st.sampled_from([None, 0.5, 30.0])),
        "chunk": draw(st.integers(1, 45)),
    }


def reference(end, row_weights):
    """Return losses and gradients of their weighted sum by autograd, in double precision."""
    wanted = [end[n].clone().requires_grad_() for n in ("hidden", "weight", "bias") if end[n] is not None]
    logits = end["scale"] * nn.functional.linear(*wanted)
    if end["cap"] is not None:
        logits = end["cap"] * torch.tanh(logits / end["cap"])
    losses = nn.functional.cross_entropy(logits, end["targets"], reduction="none")
    return losses.detach(), torch.autograd.grad((losses * row_weights).sum(), wanted)


def bounds(end, row_weights):
    """Return the largest that each gradient could be: what rounding is relative to (a cap makes gradients vanish)."""
    r, scale = row_weights.double(), abs(end["scale"])
    sizes = [r.max() * end["weight"].abs().max(), (r[:, None] * end["hidden"].abs()).sum(0).max(), r.sum()]
    return [2 * scale * float(size) for size in sizes]


def in_dtype(end, dtype):
    return [None if end[n] is None else end[n].to(dtype) for n in ("hidden", "weight", "bias")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(end=ends())
@settings(max_examples=60, deadline=None)
def test_losses_and_gradients_of_any_end_in_any_chunks(dtype, end):
    expected, slopes = reference(end, end["row_weights"])
    given_ends = in_dtype(end, dtype)
    how = {"scale": end["scale"], "cap": end["cap"]}
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch, end["chunk"])
        assert len(chunked._parts(*given_ends[:2])) == math.ceil(len(expected) / end["chunk"])
        losses = chunked.token_losses(*given_ends, end["targets"], **how)
        wanted = [None if t is None else t.clone().requires_grad_() for t in given_ends]
        total, again = chunked.WeightedLoss.apply(*wanted, end["targets"], end["row_weights"], *how.values())
        (3 * total).backward()  # as where minibatches are accumulated
    size = max(1.0, float(expected.abs().max()))
    assert losses.dtype == again.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=0, atol=1e-5 * size)
    torch.testing.assert_close(again.double(), expected, rtol=0, atol=1e-5 * size)
    torch.testing.assert_close(total.double(), (expected * end["row_weights"]).sum(), rtol=1e-5, atol=1e-5 * size)
    found = [t for t in wanted if t is not None]
    for slope, tensor, bound in zip(slopes, found, bounds(end, end["row_weights"]), strict=False):
        assert tensor.grad.dtype == dtype
        torch.testing.assert_close(tensor.grad.double() / 3, slope, rtol=0, atol=1e-5 * bound)
    assert not again.requires_grad


@given(end=ends(), wanted=st.tuples(*[st.booleans()] * 3))
@settings(max_examples=30, deadline=None)
def test_only_gradients_that_are_wanted_are_made(end, wanted):
    _, slopes = reference(end, end["row_weights"])
    tensors = in_dtype(end, torch.float32)
    for tensor, want in zip(tensors, wanted, strict=True):
        if tensor is not None:
            tensor.requires_grad_(want)
    total, _ = chunked.WeightedLoss.apply(
        *tensors, end["targets"], end["row_weights"], end["scale"], end["cap"]
    )  # fmt: skip
    if not any(t is not None and t.requires_grad for t in tensors):
        assert not total.requires_grad
        return
    total.backward()
    for tensor, slope, bound in zip(tensors, slopes, bounds(end, end["row_weights"]), strict=False):
        assert (tensor.grad is not None) == tensor.requires_grad
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad.double(), slope, rtol=0, atol=1e-5 * bound)


def test_gradients_of_half_precision_ends_are_summed_in_float32(chunks_of):
    """A bfloat16 sum over a thousand equal chunks would stop at a quarter of its value."""
    chunks_of(3)
    hidden, weight, bias = torch.ones(3000, 2), torch.zeros(4, 2), torch.zeros(4)
    ends = [t.bfloat16().requires_grad_() for t in (hidden, weight, bias)]
    targets, row_weights = torch.ones(3000, dtype=torch.int64), torch.full((3000,), 1 / 3000)
    total, losses = chunked.WeightedLoss.apply(*ends, targets, row_weights, 1.0, None)
    total.backward()
    torch.testing.assert_close(losses, torch.full((3000,), math.log(4)))
    slope = torch.tensor([0.25, -0.75, 0.25, 0.25])
    torch.testing.assert_close(ends[2].grad.float(), slope, rtol=2**-8, atol=0)
    # Beside the result, each chunk's gradient is rounded.
    torch.testing.assert_close(ends[1].grad.float(), slope[:, None].expand(4, 2), rtol=2**-7, atol=0)


def test_chunks_hold_at_least_some_rows_and_at_most_a_budget():
    for rows, vocabulary in [(1, 50_000), (10_000, 7), (10_000, 50_000), (10_000, 10**6)]:
        num = chunked.chunk_rows(rows, vocabulary, torch.device("cpu"))
        assert 1 <= num <= rows
        assert 4 * num * vocabulary <= max(chunked._CPU_CHUNK_BYTES, 4 * vocabulary * chunked._MIN_CHUNK_ROWS)


class Ending(TinyModel):
    """Does something to what its unembedding gives."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, ids):
        return self.change(super().forward(ids))


def ending(change):
    model = Ending(change)
    model.load_state_dict(make().state_dict(), strict=False)  # a change may have weights
    return model.eval()


def head_of(model):
    return find_unembedding(model, model, ids()[:1, :8])


@pytest.mark.parametrize("cap", [None, 0.5, 5.0, 30.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 3.0, -2.0])
def test_scale_and_cap_are_read_off(scale, cap):
    model = ending(lambda x: scale * x if cap is None else cap * torch.tanh(scale * x / cap))
    head = head_of(model)
    assert head.module is model.head
    assert head.scale == pytest.approx(scale, rel=1e-4)
    assert head.cap == (None if cap is None else pytest.approx(cap, rel=1e-4))


def test_an_unembedding_that_gives_the_logits_is_exactly_that():
    model = make()
    assert head_of(model) == Unembedding(model.head, 1.0, None)


def test_a_tied_unembedding():
    model = make()
    model.head.weight = model.embed.weight
    assert head_of(model) == Unembedding(model.head)


@pytest.mark.parametrize("shift", [torch.float16, torch.bfloat16])
def test_in_half_precision(shift):
    model = ending(lambda x: 0.0625 * x).to(shift)
    head = head_of(model)
    assert head.scale == pytest.approx(0.0625, rel=1e-2)
    assert head.cap is None


class Learned(TinyModel):
    """Scales and shifts its logits with weights of their own, which at the start change nothing."""

    def __init__(self):
        super().__init__()
        self.norm_scale = nn.Parameter(torch.ones(()))
        self.norm_shift = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, ids):
        return super().forward(ids) * self.norm_scale + self.norm_shift


def masked_out(logits):
    return logits.masked_fill(torch.arange(VOCABULARY) == 3, -1e9)


NO_HEADS = {
    "masked": lambda: ending(masked_out),
    "normed": lambda: ending(nn.LayerNorm(VOCABULARY)),
    "log_softmax": lambda: ending(lambda x: torch.log_softmax(x, -1)),
    "centred": lambda: ending(lambda x: x - x.mean(-1, keepdim=True)),
    "clamped": lambda: ending(lambda x: x.clamp(-2, 2)),
    "shifted": lambda: ending(lambda x: x + 1e-3 * torch.arange(VOCABULARY)),
    "mixed": lambda: ending(nn.Sequential(nn.Linear(VOCABULARY, VOCABULARY), nn.Softplus())),
    "powered": lambda: ending(lambda x: x.sign() * x.abs() ** 1.01),
    "learned": lambda: make(Learned),
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_other_ends_are_no_heads(name):
    model = NO_HEADS[name]()
    weights = name in ("normed", "learned")
    reason = (
        "weights act on what its unembedding gives" if weights else "neither the unembedding's output nor that scaled"
    )
    with pytest.raises(NoUnembedding, match=reason):
        head_of(model)
    assert "forward" not in vars(model.head)
    assert not any(p.grad is not None for p in model.parameters())


class TwoLayers(nn.Module):
    """The last linear module is not that with as many outputs as there are logits."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.up = nn.Linear(6, VOCABULARY)
        self.down = nn.Linear(VOCABULARY, 5)
        self.table = nn.Parameter(torch.randn(5, VOCABULARY))

    def forward(self, ids):
        return self.down(torch.tanh(self.up(self.embed(ids)))) @ self.table


def test_a_linear_module_inside_is_no_head():
    with pytest.raises(NoUnembedding, match="weights act on what its unembedding gives"):
        head_of(TwoLayers().eval())


@pytest.mark.parametrize("name", [*NO_HEADS, "inside"])
def test_models_without_a_head_are_sampled_by_their_logits(name):
    """Gradients are those of autograd, of weights behind the unembedding too."""
    model = NO_HEADS[name]() if name in NO_HEADS else TwoLayers().eval()
    spec = spec_of(model, ids(), observables={"code": ids("code")})
    assert spec.choices["loss"].startswith("plain: ")
    found, expected = measured(spec), measured(plain(spec))
    assert_close(found, expected, num_losses=3)


class Lying(TinyModel):
    """What is read off one sequence is not what happens to several."""

    def forward(self, ids):
        return super().forward(ids) * (1 + 0.1 * (len(ids) > 1))


class Reshaping(TinyModel):
    """Insists on the shape of what its unembedding gives."""

    def forward(self, ids):
        return super().forward(ids).view(*ids.shape, VOCABULARY)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Lying, "plain: losses differ by"), (Reshaping, "plain: the model does not run")]
)
def test_a_model_that_does_otherwise_is_found_out_and_that_is_recorded(kind, reason):
    model = make(kind)
    tree = run(model)
    assert paths_of(tree)["loss"].startswith(reason)
    rows = tree["trace/sequence_id"][0, 0].to_numpy()
    with torch.no_grad():
        logits = model(ids()[rows])[:, :-1]
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), ids()[rows, 1:], reduction="none")
    np.testing.assert_allclose(tree["trace/loss"][0, 0, 0], expected, rtol=1e-5)


def test_a_head_whose_own_forward_was_replaced_is_found_out():
    model = make()
    original = model.head.forward
    model.head.forward = lambda hidden: 2 * original(hidden)
    loss, note = choose_loss(NextTokenLoss(spec_of(make(), ids(), observables={}).loss.adapter), model, ids()[:2], None)
    assert note.startswith("plain: losses differ")
    assert type(loss) is NextTokenLoss


def test_the_fast_loss_is_recorded():
    assert paths_of(run())["loss"] == "chunked"


@pytest.mark.parametrize("bias", [False, True])
def test_a_model_that_computes_in_half_precision_by_itself(bias):
    """Under autocast hidden states are bfloat16 and weights are not."""

    class Mixed(TinyModel):
        def forward(self, ids):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(ids)

    model = make(Mixed)
    if not bias:
        model.head.bias = None
    spec = spec_of(model, ids(), observables={"code": ids("code")})
    assert spec.choices["loss"] == "chunked"
    # Sums over the vocabulary are rounded in another order.
    assert_close(measured(spec), measured(plain(spec)), num_losses=3, tolerance=2e-2)
    run(model)


class Padded(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_padding_counts_for_nothing(chunk, chunks_of):
    mask = torch.ones_like(ids())
    mask[::2, 4:] = 0
    mask[1, :] = 0
    mask[3, :3] = 0
    data = {"input_ids": ids(), "attention_mask": mask}
    chunks_of(chunk)
    spec = spec_of(make(Padded), data, observables={"same": data})
    assert spec.choices["loss"] == "chunked"
    found, expected = measured(spec), measured(plain(spec))
    assert torch.isnan(expected[0]).any()
    assert_close(found, expected, num_losses=3)


@pytest.mark.parametrize("model_type", zoo_params())
@pytest.mark.filterwarnings("ignore")  # of other people's code
def test_losses_and_gradients_of_every_model_type(model_type, chunks_of):
    chunks_of(5)
    model = zoo.build(model_type, "plain")
    spec = spec_of(model)
    reason = PLAIN.get(model_type)
    assert spec.choices["loss"] == ("chunked" if reason is None else f"plain: {reason}")
    if model_type in NO_GRADIENTS:
        with torch.no_grad():
            assert_close(*([loss.losses(model, TOKENS, None)] for loss in (spec.loss, plain(spec).loss)), num_losses=1)
        return
    if isinstance(spec.loss, ChunkedNextTokenLoss):
        with torch.no_grad():
            spec.loss.unembedding.module.weight.mul_(50)  # logits that are near their cap, where there is one
    assert_close(measured(spec), measured(plain(spec)), num_losses=3)


@pytest.mark.parametrize(
    "model_type", [p for p in zoo_params(["qwen2", "gemma2"], variant="tied") if p.values[0] not in NO_GRADIENTS]
)
@pytest.mark.filterwarnings("ignore")
def test_where_the_unembedding_is_the_embedding(model_type, chunks_of):
    chunks_of(5)
    model = zoo.build(model_type, "tied")
    spec = spec_of(model)
    assert spec.choices["loss"] == ("chunked" if model_type not in PLAIN else f"plain: {PLAIN[model_type]}")
    assert_close(measured(spec), measured(plain(spec)), num_losses=3)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, and the largest that has a number of columns."""

    def __init__(self, columns):
        super().__init__()
        self.columns, self.made, self.rows = columns, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.made = max(self.made, tensor.numel())
                if tensor.ndim and tensor.shape[-1] == self.columns:
                    self.rows = max(self.rows, tensor.numel() // self.columns)
        return out


class Wide(nn.Module):
    """A vocabulary much wider than anything else, behind a scale and a cap."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(997, 8)
        self.head = nn.Linear(8, 997)

    def forward(self, ids):
        return 30 * torch.tanh(0.5 * self.head(torch.tanh(self.embed(ids))) / 30)


def test_no_tensor_is_larger_than_a_chunk_of_logits(chunks_of):
    chunks_of(16)
    model, data = Wide().eval(), torch.randint(997, (8, 65))
    spec = spec_of(model, data, observables={})
    assert isinstance(spec.loss, ChunkedNextTokenLoss)
    for loss, largest in ((spec.loss, 16 * 997), (plain(spec).loss, 8 * 65 * 997)):
        with Largest(997) as seen:
            total, _ = loss.mean(model, data, None)
            total.backward()
        assert seen.made == largest
        with Largest(997) as seen, torch.no_grad():
            loss.losses(model, data, None)
        assert seen.made == largest


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "cohere", "granite"])
@pytest.mark.filterwarnings("ignore")
def test_logits_of_real_models_exist_in_chunks_only(model_type, chunks_of):
    chunks_of(4)
    model = zoo.build(model_type, "plain")
    loss, note = choose_loss(NextTokenLoss(HuggingFaceAdapter()), model, TOKENS, None)
    assert note == "chunked"
    with Largest(zoo.VOCAB) as seen:
        loss.mean(model, TOKENS, None)[0].backward()
        loss.losses(model, TOKENS, None)
    assert seen.rows <= 4


def test_sampling_gives_the_same_in_any_chunks(chunks_of):
    chunks_of(5)
    small = run(save_metrics=True)
    chunks_of(256)
    whole = run(save_metrics=True)
    np.testing.assert_allclose(small["trace/loss"], whole["trace/loss"], rtol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devinterp.sampling.prepare.choose_loss", lambda loss, *_: (loss, "plain: as a test"))
        slow = run(save_metrics=True)
    assert paths_of(slow)["loss"] == "plain: as a test"
    np.testing.assert_allclose(slow["trace/loss"], whole["trace/loss"], rtol=1e-5)
    np.testing.assert_allclose(slow["metrics/distance"], whole["metrics/distance"], rtol=1e-4)
