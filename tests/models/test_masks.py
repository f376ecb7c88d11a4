"""Masks: every form takes, puts and combines like the boolean tensor it stands for."""

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks import Mask, ParamMasks, full_masks
from devinterp.models.restrictions import as_param_masks


@st.composite
def shapes(draw):
    return tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))


@st.composite
def masks(draw, shape):
    kind = draw(st.sampled_from(["whole", "block", "dense"]))
    if kind == "whole":
        return Mask.whole, (shape,)
    if kind == "block":
        dims = draw(st.sets(st.integers(0, len(shape) - 1)))
        return Mask.block, (shape, {d: sorted(draw(st.sets(st.integers(0, shape[d] - 1)))) for d in dims})
    flat = draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return Mask.from_bool, (np.array(flat).reshape(shape),)


@st.composite
def cases(draw, number=1):
    shape = draw(shapes())
    return shape, [draw(masks(shape)) for _ in range(number)]


def build(case):
    # Not inside the strategies: the run-time type checks draw from `random`, which Hypothesis forbids there.
    return [make(*arguments) for make, arguments in case[1]]


@settings(deadline=None)
@given(cases(), st.sampled_from([(), (3,)]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_take_and_put_are_boolean_indexing(case, lead, dtype):
    shape, (mask,) = case[0], build(case)
    dense = mask.to_bool()
    tensor = torch.randn(*lead, *shape).to(dtype)
    taken = mask.take(tensor)
    assert taken.shape == (*lead, *mask.values_shape)
    assert torch.equal(taken.reshape(*lead, -1), tensor[..., dense].reshape(*lead, -1))
    assert mask.num_elements == int(dense.sum()) == int(mask.sum())
    if mask.is_view and mask.num_elements:
        assert taken.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    values = torch.randn(taken.shape)
    target = tensor.clone()
    mask.put_(target, values)
    expected = tensor.clone()
    expected[..., dense] = values.reshape(*lead, -1).to(dtype)
    assert torch.equal(target, expected)


@settings(deadline=None)
@given(cases(2))
def test_sets_of_masks_are_sets_of_elements(case):
    a, b = build(case)
    x, y = a.to_bool(), b.to_bool()
    for got, want in ((a | b, x | y), (a & b, x & y), (a - b, x & ~y), (~a, ~x), (a | y, x | y), (a - y, x & ~y)):
        assert torch.equal(got.to_bool(), want)
        assert got == Mask.from_bool(want)
        assert hash(got) == hash(Mask.from_bool(want))
    assert (a == b) == torch.equal(x, y)
    assert a.is_whole == bool(x.all()) == bool(a.all())
    assert a.is_empty == (not bool(x.any())) == (not bool(a.any()))


@settings(deadline=None)
@given(cases())
def test_a_boolean_tensor_is_recognised(case):
    (mask,) = build(case)
    again = Mask.from_bool(mask.to_bool())
    assert again == mask
    if mask.index is not None:
        assert again.index is not None
    assert pickle.loads(pickle.dumps(mask)) == mask == copy.deepcopy(mask)
    assert np.array_equal(np.asarray(mask), mask.to_bool().numpy())


def test_scripts_may_treat_a_mask_as_a_tensor():
    mask = Mask.block((3, 2), {0: [1]})
    noise = torch.randn(3, 2)
    assert torch.equal(noise * mask, noise * mask.to_bool())
    assert torch.equal(noise[mask], noise[1])
    assert torch.equal(torch.where(mask, noise, 0.0), torch.where(mask.to_bool(), noise, 0.0))
    assert mask.sum().item() == 2
    assert mask.numel() == 6
    assert mask.dtype == torch.bool
    assert mask[1].all()
    assert np.asarray(mask).sum() == 2


def test_a_head_of_a_large_matrix_costs_kilobytes():
    shape = (1 << 20, 1 << 20)
    head = Mask.block(shape, {0: range(64, 128)}) | Mask.block(shape, {0: range(128, 192)})
    assert head.num_elements == 128 << 20
    assert head.is_view
    assert (Mask.whole(shape) - head).num_elements == (1 << 40) - (128 << 20)
    view = head.take(torch.empty(shape, device="meta"))
    assert view.shape == (128, 1 << 20)


def test_put_of_the_view_itself_does_nothing():
    tensor = torch.randn(4, 4)
    version = tensor._version
    mask = Mask.block((4, 4), {0: [1, 2]})
    mask.put_(tensor, mask.take(tensor))
    assert tensor._version == version


def test_a_scalar_parameter():
    value = torch.tensor(1.0)
    mask = Mask.whole(())
    mask.put_(value, torch.tensor(2.0))
    assert value == 2
    assert mask.is_whole
    assert (mask - mask).is_empty
    assert Mask.from_bool(torch.tensor(False)).is_empty


def test_indices_out_of_range_are_refused():
    with pytest.raises(InvalidInputError, match=r"0\.\.3, got 2\.\.4"):
        Mask.block((4, 4), {0: [2, 4]})
    with pytest.raises(InvalidInputError, match="dimensions"):
        Mask.block((4, 4), {2: [0]})
    with pytest.raises(InvalidInputError, match="cannot select"):
        Mask.whole((4, 4)).take(torch.zeros(3, 4))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


def test_full_masks_hold_nothing():
    with torch.device("meta"):
        model = Tied()
    masks = full_masks(model)
    assert list(masks) == [name for name, _ in model.named_parameters()]
    assert masks.num_elements == 20
    assert masks.description == "full"
    assert as_param_masks(model, None) == dict(masks)


def test_masks_are_accepted_in_every_form():
    model = Tied()
    rows = torch.zeros(5, 3, dtype=torch.bool)
    rows[1:3] = True
    for value in (rows, rows.numpy(), rows.int(), rows.float().numpy(), rows.tolist(), Mask.from_bool(rows)):
        masks = as_param_masks(model, {"embed.weight": value})
        assert masks["embed.weight"].is_view
        assert masks.num_elements == 6
    for value in (True, None):
        assert as_param_masks(model, {"head.bias": value, "embed.weight": False}) == {"head.bias": Mask.whole((5,))}


def test_the_order_of_a_dict_is_kept_and_tied_names_are_one_parameter():
    model = Tied()
    masks = as_param_masks(model, {"head.bias": None, "embed.weight": None})
    assert list(masks) == ["head.bias", "embed.weight"]
    first, last = (Mask.block((5, 3), {0: [i]}) for i in (0, 4))
    masks = as_param_masks(model, {"embed.weight": first, "head.weight": last})
    assert masks == {"embed.weight": first | last}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"embd.weight": None}, r"'embd\.weight'.*did you mean 'embed\.weight'"),
        ({"embed.weight": torch.ones(3, 5, dtype=torch.bool)}, r"shape \(3, 5\).*shape \(5, 3\)"),
        ({"embed.weight": Mask.whole((3, 5))}, r"shape \(3, 5\).*shape \(5, 3\)"),
        ({"embed.weight": torch.rand(5, 3) + 2}, "only 0 and 1"),
        ({"embed.weight": torch.zeros(5, 3, dtype=torch.bool)}, "selects no element"),
        ({"embed.weight": "all"}, "boolean tensor or array, got str"),
        ({"embed.weight": False}, "selects no weights"),
        ({}, "selects no weights"),
        (ParamMasks({"other": Mask.whole(())}), "'other'"),
    ],
)
def test_bad_masks_are_refused_by_name(masks, message):
    with pytest.raises(InvalidInputError, match=message):
        as_param_masks(Tied(), masks)
