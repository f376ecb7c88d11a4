"""Hashes of weights: any change shows, threads and devices' layouts do not, and earlier stores keep theirs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devinterp.errors import StoreMismatchError
from devinterp.sampling.run_store import weights_hash
from devinterp.sampling.run_store.weights_hash import PREFIX, hash_tensors, hash_weights, same_form
from devinterp.slt.sampling import sample

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool)


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "embedding": torch.randn(300, 7, generator=generator),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        **{f"of {dtype}": torch.randint(2, (41,), generator=generator).to(dtype) for dtype in DTYPES},
    }


def test_known_value() -> None:
    """One small tensor, hashed by hand."""
    tensor = torch.arange(3, dtype=torch.float32)
    part = hashlib.sha256(tensor.numpy().tobytes()).digest()
    by_hand = hashlib.sha256(b"w torch.float32 (3,)" + part).hexdigest()[:32]
    assert hash_tensors({"w": tensor, "no tensor": 3}) == PREFIX + by_hand


@pytest.mark.parametrize("part", [1, 64, 1000])
def test_threads_change_nothing(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts in threads give what hashing them one after the other gives."""
    monkeypatch.setattr(weights_hash, "PART", part)
    tensors, digest = _tensors(), hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""
        for start in range(0, len(data), part):
            digest.update(hashlib.sha256(data[start : start + part]).digest())
    assert hash_tensors(tensors) == PREFIX + digest.hexdigest()[:32]


def test_layout_in_memory_changes_nothing() -> None:
    """A transposed view of transposed storage is the same weights."""
    weight = torch.randn(5, 8)
    assert hash_tensors({"w": weight}) == hash_tensors({"w": weight.T.contiguous().T})


@given(data=st.data())
def test_any_change_shows(data: st.DataObject) -> None:
    """A flipped bit, another name, dtype, shape or order gives another hash."""
    tensors = _tensors()
    before = hash_tensors(tensors)
    name = data.draw(st.sampled_from([name for name, tensor in tensors.items() if tensor.numel()]))
    changed = dict(tensors)
    kind = data.draw(st.sampled_from(["bit", "name", "shape", "order", "dtype"]))
    if kind == "bit":
        raw = changed[name].clone().reshape(-1)
        index = data.draw(st.integers(0, raw.view(torch.uint8).numel() - 1))
        raw.view(torch.uint8)[index] ^= 1
        changed[name] = raw.reshape(tensors[name].shape)
    elif kind == "name":
        changed = {("other" if key == name else key): value for key, value in tensors.items()}
    elif kind == "shape":
        changed[name] = tensors[name][None]
    elif kind == "dtype":
        changed[name] = tensors[name].reshape(-1).contiguous().view(torch.uint8)
    else:
        changed = (
            {name: changed.pop(name), **changed} if next(iter(tensors)) != name else dict(reversed(tensors.items()))
        )
    assert hash_tensors(changed) != before


def _run(path: Path, weight: float, draws: int = 2) -> xr.DataTree:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    data = torch.arange(8.0).reshape(8, 1)
    return sample(
        model, data, loss_fn=_square, output_path=path, num_chains=1, num_draws=draws, batch_size=4, lr=1e-3,
        n_beta=2.0, localization=1.0, num_init_loss_batches=1, progress=False, keep_state=True,
    )  # type: ignore[return-value]  # fmt: skip


def _square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch)[:, 0] ** 2


def _with_earlier_hash(path: Path, weight: float) -> None:
    """Give a store the hash that it would have been given before."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    metadata = json.loads((path / "zarr.json").read_text())
    provenance = json.loads(metadata["attributes"]["provenance"])
    provenance["fingerprints"]["weights"] = hash_weights(model, like="0" * 32)
    metadata["attributes"]["provenance"] = json.dumps(provenance)
    (path / "zarr.json").write_text(json.dumps(metadata))


def test_earlier_stores_are_extended_and_guarded(tmp_path: Path) -> None:
    """A store with a hash of the earlier form goes on with its own weights, and refuses others."""
    path = tmp_path / "run.zarr"
    _run(path, 0.5)
    _with_earlier_hash(path, 0.5)
    assert not same_form(hash_weights(nn.Linear(1, 1)), "0" * 32)
    with pytest.raises(StoreMismatchError, match="weights"):
        _run(path, 0.6, draws=3)
    assert _run(path, 0.5, draws=3)["trace/loss"].sizes["step"] == 3
