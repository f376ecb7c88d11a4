"""Memory of a gradient: tied embeddings make no second one, and freed memory goes back to the system."""

from __future__ import annotations

import copy
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from devinterp.models.adapters.torch_module import TorchModuleAdapter
from devinterp.sampling.engines import malloc_trim as heap
from devinterp.sampling.engines.chunked_check import choose_loss
from devinterp.sampling.losses.loss import NextTokenLoss
from devinterp.sampling.losses.tied_embedding import tied_embeddings
from devinterp.sampling.losses.unembedding import Unembedding
from devinterp.sampling.model_guard import unchanged
from support.small_models import ids, make, run, same_numbers, snapshot

VOCABULARY, WIDTH = 400, 8


class Tied(nn.Module):
    """A language model with one matrix at both ends, which it may look up twice and change in place."""

    def __init__(self, *, padding: int | None = None, twice: bool = False, **special) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=padding, **special)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.twice = twice

    def forward(self, ids):
        hidden = self.embed(ids)
        hidden *= 3  # in place, as some models scale
        if self.twice:
            hidden = hidden + self.embed(ids.flip(1))
        return SimpleNamespace(logits=self.head(torch.tanh(self.mix(hidden))))


def tied(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tied(**options).eval()


def tokens():
    found = torch.randint(1, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(1))
    found[:, 3] = found[:, 7] = 5  # tokens that come again, whose rows add up
    return found


def plain_and_fast(model, batch):
    plain = NextTokenLoss(TorchModuleAdapter())
    fast, note = choose_loss(plain, model, batch, None)
    assert note == "chunked"
    return plain, fast


def gradients(loss, model, *batches):
    """Return the gradients that several batches leave behind together."""
    model.zero_grad()
    for batch in batches:
        mean, _ = loss.mean(model, batch, None)
        (mean / len(batches)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"padding": 5}, {"twice": True}], ids=["plain", "padding", "twice"])
def test_gradients_of_tied_weights_are_those_of_autograd(options, dtype):
    model = tied(**options).to(dtype)
    plain, fast = plain_and_fast(model, tokens())
    assert fast._tied
    expected, found = (gradients(loss, model, tokens(), tokens().flip(0)) for loss in (plain, fast))
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        resolution = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]  # losses are float32
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=resolution * scale)


@pytest.mark.parametrize("moving", ["embed.weight", "mix.weight"])
def test_only_what_moves_gets_a_gradient(moving):
    model = tied()
    plain, fast = plain_and_fast(model, tokens())
    with unchanged(model):
        model.get_parameter(moving).requires_grad_(True)
        expected, found = (gradients(loss, model, tokens()) for loss in (plain, fast))
    assert set(found) == set(expected) == {moving}
    torch.testing.assert_close(found[moving], expected[moving], rtol=1e-4, atol=1e-7)


class Sizes(TorchDispatchMode):
    """Counts tensors of the vocabulary's size that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.shape == (VOCABULARY, WIDTH):
            self.made.add(result.untyped_storage().data_ptr())
        return result


def test_one_gradient_of_the_vocabulary_is_made():
    model = tied()
    plain, fast = plain_and_fast(model, tokens())
    made = []
    for loss in (plain, fast):
        model.zero_grad()
        mean, _ = loss.mean(model, tokens(), None)
        with Sizes() as sizes:
            mean.backward()
        made.append(len(sizes.made - {model.embed.weight.untyped_storage().data_ptr()}))
    assert made[0] >= 2
    assert made[1] <= 1


@pytest.mark.parametrize(
    "special",
    [{"sparse": True}, {"scale_grad_by_freq": True}, {"max_norm": 5.0}],
    ids=lambda special: next(iter(special)),
)
def test_special_embeddings_are_left_to_autograd(special):
    model = tied(**special)
    head = Unembedding(model.head)
    assert tied_embeddings(tied(), Unembedding(tied().head)) == ()  # of another model
    assert tied_embeddings(model, head) == ()


def test_embeddings_with_a_forward_of_their_own_are_left_alone():
    """The accelerate package moves data between devices that way."""
    model = tied()
    head = Unembedding(model.head)
    assert tied_embeddings(model, head) == (model.embed,)
    model.embed.forward = model.embed.forward
    assert tied_embeddings(model, head) == ()


def test_a_run_of_a_tied_model_is_that_of_the_plain_path(monkeypatch):
    model = tied()
    before = snapshot(model)
    data = tokens()
    found = run(model, data, batch_size=2)
    assert snapshot(model) == before
    monkeypatch.setattr("devinterp.sampling.prepare.choose_loss", lambda plain, *_: (plain, "plain"))
    expected = run(copy.deepcopy(model), data, batch_size=2)
    difference = found["trace/loss"] - expected["trace/loss"]
    assert float(abs(difference).max()) < 1e-5 * float(expected["trace/loss"].max())


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc says how much it keeps")


@glibc
def test_freed_memory_goes_back():
    blocks = [torch.ones(250_000) for _ in range(300)]  # 1 MB each: in the heap rather than mapped one by one
    held = blocks[::2]  # what remains keeps the rest of the heap from being cut off
    before = _resident()
    del blocks
    kept = _resident()
    heap._trim()
    after = _resident()
    assert len(held) == 150
    assert before - kept < 40e6, "this C library gives memory back by itself: the module is not needed with it"
    assert kept - after > 100e6


@glibc
@pytest.mark.parametrize(("smallest", "trims"), [(0, True), (2**40, False)])
def test_only_large_gradients_are_trimmed_for(smallest, trims, monkeypatch):
    called = []
    monkeypatch.setattr(heap, "_trim", lambda: called.append(1))
    monkeypatch.setattr(heap, "_MIN_GRADIENT_BYTES", smallest)
    monkeypatch.setattr(heap, "_GRADIENT_BYTES_BETWEEN", 100)
    model = make()
    before = snapshot(model)
    run(model, ids(), num_chains=1)
    assert bool(called) == trims
    assert snapshot(model) == before
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_without_glibc_nothing_is_done(monkeypatch):
    expected = run(make(), ids())
    monkeypatch.setattr(heap, "_MIN_GRADIENT_BYTES", 0)
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    model = make()
    with heap.trimmed(model, list(model.parameters())):
        assert not model._forward_hooks
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    heap._trim()  # neither fails
    same_numbers(run(model, ids()), expected)


def _resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
