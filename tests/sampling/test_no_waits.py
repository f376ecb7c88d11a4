"""A steady step asks nothing of a device that makes it wait: values are read only where a block of draws is handed over."""

from __future__ import annotations

import functools
import traceback
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from devinterp.sampling.chains import loop
from devinterp.sampling.chains.loop import run_chains
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.data import placement
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.plan import ChainBatch, engines_of
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from support import model_zoo as zoo
from support.engines import TOKENS, spec_of
from support.small_models import WIDTH, Deep, deep, ids

aten = torch.ops.aten
#: What gives the host a value, or a tensor whose size depends on values.
VALUES = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2, aten.unique_dim,
    aten.unique_consecutive, aten.bincount,
}  # fmt: skip
#: What copies to the host when the tensor is on a device, by the names of methods.
COPIES = {"cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__array__"}


class Seen:
    """What was seen of operations that wait, each with the place in this package that asked for it."""

    def __init__(self):
        self.waits = []

    def add(self, what):
        names = [
            frame.name
            for frame in traceback.extract_stack()
            if ("/devinterp/" in frame.filename or "/transformers/" in frame.filename)
            and frame.name[0] != "<"
            and frame.name != "__torch_function__"
        ]
        self.waits.append((what, names[-1] if names else ""))


class Dispatched(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if func._overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if func._overloadpacket in VALUES or by_mask:
            self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        to_host = name == "to" and "cpu" in [
            arg for arg in (*args[1:], *(kwargs or {}).values()) if isinstance(arg, str)
        ]
        if name in COPIES or to_host:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def watching():
    seen = Seen()
    with Dispatched(seen), Called(seen):
        yield seen


def test_what_waits_is_seen():
    values = torch.arange(4.0)
    for asks in (
        item_of_sum, Tensor.tolist, Tensor.cpu, Tensor.numpy, bool_of_sum, Tensor.nonzero, by_mask, to_host, float_of_sum
    ):  # fmt: skip
        with watching() as seen:
            asks(values)
        assert seen.waits, asks
    with watching() as seen:
        torch.where(values > 1, values, 0).sum() + values[[0, 1]].mean()
    assert not seen.waits


def bool_of_sum(values):
    return bool(values.sum() > 0)


def item_of_sum(values):
    return values.sum().item()


def float_of_sum(values):
    return float(values.sum())


def by_mask(values):
    return values[values > 1]


def to_host(values):
    return values.to("cpu", torch.float64)


HEADS = {
    f"h{n}": {"layers.2.mix.weight": (torch.arange(WIDTH)[:, None] // 2 == n).expand(WIDTH, WIDTH)} for n in range(3)
}
ENGINES = {
    "in place": (HEADS, ChainBatch(("h0",), (0,), False, "")),
    "everything": ({"full": None}, ChainBatch(("full",), (0,), False, "")),
    "side by side": ({"full": None}, ChainBatch(("full",), (0, 1), True, "")),
    "restrictions side by side": (HEADS, ChainBatch(("h0", "h1", "h2"), (0, 1), True, "")),
}


@contextmanager
def engine_of(spec, batch):
    with closing(engines_of(spec, [batch], SharedPrefix())) as engines:
        yield next(engines)[0]


def steady_waits(spec, batch):
    """Return what waits in steps and evaluations after the first."""
    with engine_of(spec, batch) as engine:
        rows = [spec.schedule.steps(chain) for chain in batch.chains]
        stepper = Stepper(spec.transition(), engine.weights, spec.settings, chains=batch.chains)

        def step(n):
            losses, _ = engine.add_gradient([rows_of_chain[n] for rows_of_chain in rows])
            stepper.step(losses, functools.partial(loop._losses_again, engine, [of_chain[n] for of_chain in rows]))
            for name in spec.observables:
                engine.evaluate(name)

        step(0)
        with watching() as seen:
            step(1)
            step(2)
    return seen.waits


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ENGINES)
def test_no_step_waits(kind, padded, matched):
    class Padded(Deep):
        def forward(self, ids, attention_mask=None):
            return super().forward(ids)

    restrictions, batch = ENGINES[kind]
    mask = torch.ones_like(ids())
    mask[::2, 5:] = 0
    data = {"input_ids": ids(), "attention_mask": mask} if padded else ids()
    spec = spec_of(
        deep(Padded), data, restrictions, observables={"code": data}, match_sampling_input_ids_across_chains=matched,
        gradient_accumulation_steps=2, num_draws=4,
    )  # fmt: skip
    assert steady_waits(spec, batch) == []


@pytest.mark.parametrize(
    "kernel", ["sgld", "rmsprop_sgld", "sghmc", "sgnht", "leimkuhler_matthews", "baoab", "rmsprop_leimkuhler_matthews"]
)
def test_no_kernel_waits(kernel):
    metrics = ["distance", "noise", "dot_grad_noise"] + ["mala_acceptance"] * (kernel in ("sgld", "rmsprop_sgld"))
    spec = spec_of(deep(), ids(), HEADS, sampling_method=kernel, save_metrics=metrics, num_draws=4, observables={})
    for _, batch in ENGINES.values():
        if batch.restrictions[0] in spec.restrictions:
            assert steady_waits(spec, batch) == []


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gpt2"])
def test_no_step_of_a_transformer_waits_but_where_it_looks_for_packed_sequences(model_type, vectorized):
    """That is once for each forward pass, before its layers; nothing that is passed to the model turns it off."""
    spec = spec_of(zoo.build(model_type, "plain"), TOKENS, {"l1": "l1"}, num_draws=4)
    waits = steady_waits(spec, ChainBatch(("l1",), (0, 1) if vectorized else (0,), vectorized, ""))
    looks = {"find_packed_sequence_indices", "warn_if_padding_and_no_attention_mask"}
    assert {place for _, place in waits} <= looks
    values = [what for what, _ in waits if what.startswith("aten")]
    assert len(values) <= len(looks) * 4  # two steps, each with a gradient and an evaluation


@pytest.mark.parametrize("kind", ENGINES)
def test_a_run_reads_values_only_where_it_hands_over_draws(kind, monkeypatch):
    monkeypatch.setattr(loop, "_MAX_BLOCK_SECONDS", float("inf"))  # else a busy machine hands over more often
    restrictions, batch = ENGINES[kind]
    spec = spec_of(deep(), ids(), restrictions, num_draws=3, num_steps_bw_draws=5, observables={"code": ids("code")})
    with engine_of(spec, batch) as engine:
        numbers = range(len(batch.restrictions))
        chains = run_chains(engine, restrictions=list(numbers), chains=batch.chains)
        next(chains)  # caches are filled
        with watching() as seen:
            draws = list(chains)
    # After the last draw steps are left, which are handed over without one.
    assert len(draws) == 4 * len(numbers) * len(batch.chains) - 1
    assert {place for _, place in seen.waits} <= {"finish", "_to_host"}
    # Losses and whether they are finite are copied once for a block; where it ends in a draw the observable and whether that is
    # finite, too, and the five parts of the virial. Each copy shows twice.
    assert len({what for what, _ in seen.waits}) <= 3
    assert len(seen.waits) <= 2 * (2 * 9 + 2)


def test_noise_is_drawn_where_the_weights_are():
    spec = spec_of(deep(), ids(), HEADS, observables={})
    for _, batch in (ENGINES["in place"], ENGINES["restrictions side by side"]):
        with engine_of(spec, batch) as engine:
            generators = [torch.Generator(engine.weights.device) for _ in batch.chains]
            with watching() as seen:
                noise = list(engine.weights.noise(generators, 1.0))
            assert all(part.device == engine.weights.device for part in noise)
            assert not seen.waits


def rows_of(num=6):
    data = torch.arange(num * 3).view(num, 3)
    return Rows(data, np.arange(num) * 2, data > 4)


def test_large_data_stay_on_the_host_and_batches_are_copied(monkeypatch):
    device = torch.device("meta")  # stands in for a GPU
    small = rows_of().placed(device)
    assert small.data.device == device
    monkeypatch.setattr(placement, "DEVICE_BYTES", 8)
    large = rows_of().placed(device)
    assert large.data.device.type == "cpu"
    batch, mask, _ = large.batch(np.array([4, 0]))
    assert batch.device == mask.device == device
    assert batch.shape == (2, 3)
    at_home = replace(large, host=None)
    torch.testing.assert_close(at_home.batch(np.array([4, 0]))[0], torch.tensor([[6, 7, 8], [0, 1, 2]]))


def test_copies_to_a_device_come_from_pinned_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self.shape) or self)
    monkeypatch.setattr(placement, "DEVICE_BYTES", 8)
    monkeypatch.setattr(placement, "can_pin", lambda: True)
    large = rows_of().placed(torch.device("meta"))
    large.batch(np.array([4, 0]))
    assert pinned == [(2, 3), (2, 3)]  # the rows of the batch and of its mask
