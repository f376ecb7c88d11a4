"""Small models and data of which a run takes a fraction of a second, and comparisons of trees and models."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp import sample

V2 = Path(__file__).parents[1] / "data" / "v2"
VOCABULARY, WIDTH = 23, 6
#: A run of a fraction of a second.
SHORT: dict[str, Any] = {
    "lr": 1e-3,
    "n_beta": 20.0,
    "localization": 5.0,
    "num_chains": 2,
    "num_draws": 4,
    "batch_size": 4,
    "num_init_loss_batches": 2,
    "batches_per_draw": 1,
    "chains": "sequential",  # by default a timing decides, and the ways differ in rounding
}


class TinyModel(nn.Module):
    """The module of the recorded problem: ``head(tanh(mix(embed(ids))))``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(ids))))


class WithLogits(TinyModel):
    """The same, returning an object with ``.logits``."""

    def forward(self, ids: Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(ids))


class Noisy(TinyModel):
    """With dropout and batch norm, whose buffers and random numbers a forward pass in train mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        self.calls = self.calls + 1  # another tensor under the same name, as rotary tables are replaced
        hidden = self.norm(self.mix(self.embed(ids)).transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(torch.tanh(hidden)))


class Layer(nn.Module):
    """Adds to each token something of the tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Any:
        return hidden + torch.tanh(self.mix(hidden.cumsum(1)))


class Deep(nn.Module):
    """A language model of three layers, of which those before the first that is sampled can be computed once."""

    Block: type[nn.Module] = Layer

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([self.Block() for _ in range(3)])
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids)))

    def body(self, hidden: Tensor) -> Tensor:
        """Return what the layers make of the embeddings."""
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def deep(kind: type[Deep] = Deep) -> Deep:
    """Return a model of three layers with the same random weights every time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind().eval()


def recorded() -> dict[str, np.ndarray]:
    """Return the weights and token ids of the problem that DevInterp 2 was recorded on, by their names in the file."""
    with np.load(V2 / "tiny_problem.npz") as archive:
        return {name: archive[name] for name in archive.files}


def make(kind: type[TinyModel] = TinyModel, *, dtype: torch.dtype = torch.float32) -> TinyModel:
    """Return a model with the recorded weights, in eval mode; other parameters keep their deterministic defaults."""
    with torch.random.fork_rng(devices=[]):
        model = kind()
    weights = {name[6:]: torch.from_numpy(w) for name, w in recorded().items() if name.startswith("param/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("norm" in name or name == "calls" for name in missing)
    return model.to(dtype).eval()


def ids(name: str = "train") -> Tensor:
    """Return recorded token ids, ``(24, 9)``."""
    return torch.from_numpy(recorded()[f"ids/{name}"])


def run(model: nn.Module | None = None, dataset: Any = None, observables: Any = None, **changes: Any) -> xr.DataTree:
    """Sample the recorded problem shortly."""
    model = make() if model is None else model
    return sample(model, ids() if dataset is None else dataset, observables, **{**SHORT, **changes})


def same_numbers(a: xr.DataTree, b: xr.DataTree, *, rtol: float = 0, atol: float = 0) -> None:
    """Assert that two trees hold the same arrays, whatever they say about themselves."""
    assert {node.path for node in a.subtree} == {node.path for node in b.subtree}
    for node in a.subtree:
        ours, theirs = node.to_dataset(inherit=False), b[node.path].to_dataset(inherit=False)
        assert set(ours.variables) == set(theirs.variables), node.path
        for name in ours.variables:
            assert ours[name].dims == theirs[name].dims, f"{node.path}/{name}"
            if ours[name].dtype.kind in "OUT" or not (rtol or atol):
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{node.path}/{name}")
            else:
                np.testing.assert_allclose(
                    ours[name], theirs[name], rtol=rtol, atol=atol, err_msg=f"{node.path}/{name}"
                )


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor of any dtype, for comparisons bit by bit."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model that sampling must leave alone, comparable with ``==``."""
    return {
        "parameters": {
            n: (id(p), p.requires_grad, tensor_bytes(p), None if p.grad is None else (id(p.grad), tensor_bytes(p.grad)))
            for n, p in model.named_parameters()
        },
        "buffers": {name: (id(b), tensor_bytes(b)) for name, b in model.named_buffers()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "forwards": {name: "forward" in vars(module) for name, module in model.named_modules()},
    }


def random_states() -> tuple[Any, ...]:
    """Return the states of the global generators, comparable with ``==``; see `unchecked`."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  # the global one is what must not change
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        numpy_state["state"]["key"].tobytes(),
        numpy_state["state"]["pos"],
    )
