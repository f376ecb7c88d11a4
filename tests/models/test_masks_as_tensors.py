"""What scripts do with the boolean tensors that DevInterp 2 gives as masks, done with masks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from devinterp.errors import InvalidInputError
from devinterp.models.masks import Mask, ParamMasks
from devinterp.models.restrictions import as_param_masks, create_param_masks
from support.small_models import make

BLOCK = Mask.block((3, 4), {0: [1, 2], 1: [0, 2]})
DENSE = Mask.from_bool(torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]]) > 0)
OTHER = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]) > 0
FLOATS = torch.arange(12.0).reshape(3, 4)

USES: dict[str, Callable[[Any], Any]] = {
    "as_tensor": torch.as_tensor,
    "asarray of torch": torch.asarray,
    "dlpack": torch.from_dlpack,
    "numpy": np.asarray,
    "numpy of ints": lambda m: np.asarray(m, dtype=np.int64),
    "numpy sum": lambda m: np.sum(np.asarray(m)),
    "numpy where": lambda m: np.where(m, FLOATS.numpy(), 0.0),
    "numpy index": lambda m: FLOATS.numpy()[np.asarray(m)],
    "numpy method": lambda m: m.numpy(),
    "array * m": lambda m: torch.as_tensor(FLOATS.numpy() * np.asarray(m)),
    "sum": lambda m: m.sum(),
    "sum over a dim": lambda m: m.sum(dim=0),
    "sum keepdim": lambda m: m.sum(1, keepdim=True),
    "any": lambda m: m.any(),
    "any over a dim": lambda m: m.any(0),
    "all": lambda m: m.all(dim=1),
    "builtin sum": lambda m: sum(m),
    "float": lambda m: m.float(),
    "int": lambda m: m.int(),
    "long": lambda m: m.long().sum(),
    "type": lambda m: m.type(torch.float64),
    "to dtype": lambda m: m.to(torch.float32),
    "to device": lambda m: m.to("cpu"),
    "to both": lambda m: m.to(device="cpu", dtype=torch.int8),
    "cpu": lambda m: m.cpu(),
    "mean": lambda m: m.float().mean(),
    "nonzero": lambda m: m.nonzero(),
    "nonzero tuple": lambda m: m.nonzero(as_tuple=True),
    "count_nonzero": lambda m: torch.count_nonzero(m),
    "flatten": lambda m: m.flatten(),
    "view": lambda m: m.view(-1),
    "reshape": lambda m: m.reshape(4, 3),
    "T": lambda m: m.T,
    "unsqueeze": lambda m: m.unsqueeze(0),
    "expand": lambda m: m.unsqueeze(0).expand(2, 3, 4),
    "clone": lambda m: m.clone(),
    "detach": lambda m: m.detach(),
    "contiguous": lambda m: m.contiguous(),
    "tolist": lambda m: m.tolist(),
    "item": lambda m: m.sum().item(),
    "len": len,
    "size": lambda m: m.size(),
    "size of a dim": lambda m: m.size(1),
    "dim": lambda m: m.dim(),
    "ndim": lambda m: m.ndim,
    "numel": lambda m: m.numel(),
    "device": lambda m: m.device,
    "is_floating_point": lambda m: m.is_floating_point(),
    "row": lambda m: m[1],
    "element": lambda m: m[1, 2],
    "slices": lambda m: m[:, 1:3],
    "ellipsis": lambda m: m[..., 0],
    "rows": lambda m: [row.sum() for row in m],
    "index by tensor": lambda m: m[torch.tensor([2, 0])],
    "index a tensor": lambda m: FLOATS[m],
    "index by its inverse": lambda m: FLOATS[~m],
    "or": lambda m: m | OTHER,
    "or, the other way round": lambda m: OTHER | m,
    "and": lambda m: m & OTHER,
    "and, the other way round": lambda m: OTHER & m,
    "and of a row": lambda m: m & OTHER[0],
    "xor": lambda m: m ^ OTHER,
    "not": lambda m: ~m,
    "logical_and": lambda m: torch.logical_and(m, OTHER),
    "logical_not": torch.logical_not,
    "logical method": lambda m: m.logical_or(OTHER),
    "m * tensor": lambda m: m * FLOATS,
    "tensor * m": lambda m: FLOATS * m,
    "m * 2": lambda m: m * 2,
    "2 * m": lambda m: 2 * m,
    "m + 1": lambda m: m + 1,
    "1 + m": lambda m: 1 + m,
    "tensor / m": lambda m: FLOATS / m.float().clamp(min=1),
    "tensor - m": lambda m: FLOATS - m.float(),
    "index and assign": lambda m: _assigned(m),
    "is_tensor": torch.is_tensor,
    "is a Tensor": lambda m: isinstance(m, torch.Tensor),
    "module": lambda m: _as_buffer(m.float()),
    "equal to a tensor": lambda m: m == OTHER,
    "tensor equal to it": lambda m: m == OTHER,
    "unequal": lambda m: m != OTHER,
    "equal to a number": lambda m: m == 1,
    "greater": lambda m: m > 0,
    "torch.equal": lambda m: torch.equal(m, m.clone()),
    "allclose": lambda m: torch.allclose(m.float(), m.clone().float()),
    "where": lambda m: torch.where(m, FLOATS, 0.0),
    "where of indices": lambda m: torch.where(m),
    "masked_fill": lambda m: FLOATS.masked_fill(m, -1.0),
    "masked_fill of the inverse": lambda m: FLOATS.masked_fill(~m, 0.0),
    "masked_select": lambda m: torch.masked_select(FLOATS, m),
    "mul_": lambda m: FLOATS.clone().mul_(m),
    "assign": lambda m: FLOATS.clone().index_put_((m.clone(),), torch.tensor(-1.0)),
    "stack": lambda m: torch.stack([m, OTHER]),
    "cat": lambda m: torch.cat([m, OTHER]),
    "stack of inverses": lambda m: torch.stack([m, ~m]).sum(0),
    "einsum": lambda m: torch.einsum("ij,ij->", m.float(), FLOATS),
    "zeros_like": torch.zeros_like,
    "ones_like": lambda m: torch.ones_like(m, dtype=torch.float32),
    "new_zeros": lambda m: m.new_zeros(2),
    "numel by torch": torch.numel,
    "vector of masks": lambda m: torch.nn.utils.parameters_to_vector([m.float(), m.float()]),
    "register_buffer": lambda m: _as_buffer(m),
    "is_tensor of as_tensor": lambda m: torch.is_tensor(torch.as_tensor(m)),
    "hash": lambda m: isinstance(hash(m), int),
}


def _as_buffer(mask: Any) -> torch.Tensor:
    module = torch.nn.Module()
    module.register_buffer("mask", torch.as_tensor(mask))
    return module.state_dict()["mask"]


def _assigned(mask: Any) -> torch.Tensor:
    changed = FLOATS.clone()
    changed[mask] = -1.0
    changed[~mask] *= 2
    changed[mask] += FLOATS[mask]
    return changed


def assert_same(got: Any, want: Any) -> None:
    if isinstance(got, Mask):
        got = got.to_bool()
    if isinstance(want, torch.Tensor):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    elif isinstance(want, np.ndarray | np.generic):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    else:
        assert got == want


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mask", [BLOCK, DENSE, Mask.whole((3, 4)), Mask.empty((3, 4))])
def test_a_mask_does_what_its_tensor_does(mask, use):
    assert_same(USES[use](mask), USES[use](mask.to_bool()))


def test_comparison_of_masks_is_by_element_and_true_where_all_agree():
    agreement = BLOCK == DENSE
    assert torch.equal(agreement.to_bool(), BLOCK.to_bool() == DENSE.to_bool())
    assert int(agreement.sum()) == int((BLOCK.to_bool() == DENSE.to_bool()).sum())
    assert not agreement
    assert BLOCK != DENSE
    assert (DENSE == DENSE).all()
    assert Mask.from_bool(DENSE.to_bool()) == DENSE
    assert not (Mask.from_bool(DENSE.to_bool()) != DENSE)  # noqa: SIM202
    assert Mask.whole((2,)) != Mask.whole((3,))
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(DENSE)
    assert bool(Mask.whole((1,)))
    assert DENSE is not None
    assert DENSE != None  # noqa: E711
    assert DENSE in [BLOCK, DENSE]


@pytest.mark.parametrize("change", [lambda m: m.fill_(False), lambda m: m.__setitem__(0, True), lambda m: m.zero_()])
def test_what_would_be_lost_is_refused(change):
    with pytest.raises(
        InvalidInputError, match=r"cannot be changed in place: take a tensor, `mask = masks\[name\]\.clone"
    ):
        change(DENSE)


def test_masks_in_a_file(tmp_path):
    masks = create_param_masks(make(), "mix.weight")
    torch.save(masks, tmp_path / "masks.pt")
    assert torch.load(tmp_path / "masks.pt") == masks
    torch.save({name: torch.as_tensor(mask) for name, mask in masks.items()}, tmp_path / "plain.pt")
    assert as_param_masks(make(), torch.load(tmp_path / "plain.pt")) == masks
    stream = io.BytesIO()
    torch.save(DENSE, stream)
    assert torch.load(io.BytesIO(stream.getvalue())) == DENSE


def test_masks_by_name_are_a_dict():
    masks = create_param_masks(make(), ["mix.weight", "mix.bias"])
    assert isinstance(masks, dict)
    assert masks.description == "mix.weight + mix.bias"
    changed = masks.copy()
    half = changed["mix.weight"].clone()
    half[3:] = False
    changed["mix.weight"] = half
    del changed["mix.bias"]
    changed.update({"head.bias": torch.ones(23, dtype=torch.bool)})
    changed["head.bias"] |= torch.zeros(23, dtype=torch.bool)
    assert {name: mask.num_elements for name, mask in changed.items()} == {"mix.weight": 18, "head.bias": 23}
    assert changed.num_elements == 41
    assert changed.description == "", "it is no longer what was asked for"
    assert masks.num_elements == 42
    merged = {**masks, "head.bias": torch.ones(23)}
    assert as_param_masks(make(), merged).num_elements == 65
    assert {name: mask & mask for name, mask in masks.items()} == masks
    with pytest.raises(InvalidInputError, match="a mask must be boolean"):
        changed["embed.weight"] = torch.ones(23, 6)
    assert changed.setdefault("mix.weight") is changed["mix.weight"]
    assert changed.pop("mix.weight").num_elements == 18
    assert isinstance(ParamMasks(), dict)
