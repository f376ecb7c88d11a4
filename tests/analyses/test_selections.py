"""What xarray leaves of a tree gives the numbers of that part, or a clear error; never others."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings

import devinterp
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, SEQUENCE, STEP
from devinterp.testing import synthetic_tree
from support.small_models import ids, make, run

N_BETA, BURNIN = 20.0, 6
SIZES = {RESTRICTION: 3, CHAIN: 3, DRAW: 9, STEP: 24, BATCH: 4, POSITION: 5, SEQUENCE: 5}
WHOLE = synthetic_tree(
    num_restrictions=3,
    num_chains=3,
    num_draws=9,
    num_steps_bw_draws=2,
    num_burnin_steps=BURNIN,
    num_rows=16,
    num_tokens=6,
    observables={"train": (5, 6), "code": (6, 6)},
    n_beta=N_BETA,
)
ARRAYS = {
    path: WHOLE[path].to_numpy().astype(float)
    for path in (
        "trace/loss",
        "trace/sequence_id",
        "trace/row_loss",
        "trace/init_loss",
        "observables/train/loss",
        "observables/train/init_loss",
        "observables/code/loss",
        "observables/code/init_loss",
    )
}
LABELS = {
    RESTRICTION: WHOLE[RESTRICTION].to_numpy(),
    CHAIN: np.arange(3),
    DRAW: np.arange(9),
    STEP: np.arange(24),
    POSITION: np.arange(1, 6),
}


@st.composite
def indexers(draw: Any) -> dict[str, Any]:
    """Return which places are selected along some dims: one, several in any order, or a range of them."""
    dims = draw(st.lists(st.sampled_from(list(SIZES)), min_size=1, max_size=3, unique=True))
    chosen = {}
    for dim in dims:
        places = range(SIZES[dim])
        one = st.sampled_from(places)
        some = st.lists(one, min_size=1, max_size=5, unique=True)
        span = st.tuples(one, one, st.integers(1, 3)).map(lambda t: slice(min(t[:2]), max(t[:2]) + 1, t[2]))
        chosen[dim] = draw(st.one_of(one, some, span))
    return chosen


def places(index: Any, size: int) -> np.ndarray:
    return np.atleast_1d(np.arange(size)[index])


def labelled(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the same selection by labels, for `sel`; along dims without labels places are labels."""
    by_label = {}
    for dim, index in chosen.items():
        labels = LABELS.get(dim)
        if labels is None or not isinstance(index, slice):
            by_label[dim] = index if labels is None else labels[index]
        else:
            by_label[dim] = labels[places(index, SIZES[dim])]
    return by_label


class Part:
    """The numbers of a part of the whole, by plain numpy."""

    def __init__(self, chosen: dict[str, Any]) -> None:
        at = {dim: places(chosen.get(dim, slice(None)), size) for dim, size in SIZES.items()}
        self.at, self.of_sequences = at, SEQUENCE in chosen
        kept = np.array([s for s in np.sort(at[STEP]) if s >= BURNIN], dtype=int)
        self.kept = kept
        rcsbp = np.ix_(at[RESTRICTION], at[CHAIN], kept, at[BATCH], at[POSITION])
        self.trace = ARRAYS["trace/loss"][rcsbp].mean((3, 4))
        rows = ARRAYS["trace/sequence_id"].astype(int)[np.ix_(at[CHAIN], kept, at[BATCH])]
        self.start = ARRAYS["trace/row_loss"][:, at[POSITION]][rows].mean((2, 3))
        self.init = ARRAYS["trace/init_loss"][np.ix_(at[CHAIN], at[POSITION])].mean()

    def observable(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return losses ``(restriction, chain, draw, sequence, position)`` and those at w0."""
        at = self.at
        loss, start = ARRAYS[f"observables/{name}/loss"], ARRAYS[f"observables/{name}/init_loss"]
        sequences = at[SEQUENCE] if self.of_sequences else np.arange(loss.shape[3])
        index = np.ix_(at[RESTRICTION], at[CHAIN], np.sort(at[DRAW]), sequences, at[POSITION])
        return loss[index], start[np.ix_(sequences, at[POSITION])]


def assert_close(got: Any, want: Any, tolerance: float = 2e-4) -> None:
    np.testing.assert_allclose(np.squeeze(np.asarray(got)), np.squeeze(want), rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(indexers(), st.booleans(), st.booleans())
def test_every_analysis_of_a_selection_is_that_of_the_part(chosen, by_label, lazy):
    tree = WHOLE.sel(labelled(chosen)) if by_label else WHOLE.isel(chosen)
    if lazy:
        tree = tree.chunk()
    part = Part(chosen)
    if len(part.kept):
        result = tree.slt.llc().compute()
        assert_close(result["llc_per_chain"], N_BETA * (part.trace.mean(2) - part.init))
        assert_close(result["paired_llc_per_chain"], N_BETA * (part.trace.mean(2) - part.start.mean(1)))
        for name in ("train", "code"):
            loss, start = part.observable(name)
            want = N_BETA * (loss.mean((1, 2, 3, 4)) - start.mean())
            assert_close(result["observable_llc_mean"].sel(observable=name), want)
    else:
        with pytest.raises(InvalidInputError, match=r"`burnin` \(=6\) leaves none of the steps of this tree"):
            tree.slt.llc()
    loss, start = part.observable("code")
    assert_close(tree.slt.token_llc("code")["llc"], N_BETA * (loss.mean((1, 2)) - start))
    check_influences(tree, part)
    check_susceptibilities(tree, part)


def check_influences(tree: xr.DataTree, part: Part) -> None:
    loss, _ = part.observable("code")
    means = loss.mean(4).reshape(loss.shape[0], -1, loss.shape[3])
    if means.shape[1] < 2:
        return
    got = tree.slt.bif(method="sequence", compute_covariance=True, loss_keys="code")["influences"]
    want = np.stack([np.cov(each, rowvar=False) for each in means])
    assert_close(got, want, 1e-4)
    traces = loss.reshape(loss.shape[0], means.shape[1], -1)
    got = tree.slt.bif(compute_covariance=True, loss_keys="code")["influences"]
    sizes = (loss.shape[0], loss.shape[3], loss.shape[4], loss.shape[3], loss.shape[4])
    want = np.stack([np.atleast_2d(np.cov(each, rowvar=False)) for each in traces]).reshape(sizes)
    assert_close(got, want.transpose(0, 1, 3, 2, 4), 1e-4)


def check_susceptibilities(tree: xr.DataTree, part: Part) -> None:
    if 0 not in part.at[RESTRICTION]:
        with pytest.raises(InvalidInputError, match="compares with the run of all weights"):
            tree.slt.susceptibilities("train")
    full = list(part.at[RESTRICTION]).index(0) if 0 in part.at[RESTRICTION] else None
    task, start = part.observable("train")
    loss, _ = part.observable("code")
    series = task.mean((3, 4))
    rise = series - start.mean()
    token = loss.mean((1, 2))
    product = (rise[..., None, None] * loss).mean((1, 2))
    for estimator in ("single_run",) if full is None else ("single_run", "two_run"):
        which = np.arange(len(series)) if estimator == "single_run" else np.full(len(series), full)
        gap = series.mean((1, 2))[which][:, None, None] - token[which]
        want = (rise * series).mean((1, 2))[:, None, None] - product - rise.mean((1, 2))[:, None, None] * gap
        got = tree.slt.susceptibilities("train", estimator=estimator)["labelled/susceptibility"].sel(observable="code")
        assert_close(got, want, 1e-5)


def test_the_error_of_selected_steps_does_not_use_those_that_are_gone():
    whole, late = WHOLE.slt.llc(), WHOLE.isel(step=slice(BURNIN, None)).slt.llc()
    xr.testing.assert_allclose(whole["paired_llc_se"], late["paired_llc_se"])
    # Of the first steps it is known which rows L(w0) was measured on; without them its error is taken as another one.
    np.testing.assert_allclose(late["llc_se"], whole["llc_se"], rtol=0.3)
    assert not np.allclose(late["llc_se"], whole["llc_se"], rtol=1e-9)
    np.testing.assert_allclose(WHOLE.isel(step=slice(None, None, -1)).slt.llc()["llc_se"], whole["llc_se"], rtol=1e-6)


def test_rows_are_found_by_their_numbers():
    mixed = WHOLE.isel(row=np.random.default_rng(0).permutation(16))
    xr.testing.assert_allclose(mixed.slt.llc()["paired_llc_mean"], WHOLE.slt.llc()["paired_llc_mean"])
    with pytest.raises(MissingDataError, match="rows whose losses at the initial weights this tree lacks"):
        WHOLE.isel(row=slice(0, 8)).slt.llc()
    lazy = WHOLE.isel(row=[3]).chunk().slt.llc()
    with pytest.raises(MissingDataError, match="select no part of `row`"):
        lazy.compute()


@pytest.mark.parametrize("dim", [CHAIN, RESTRICTION, STEP, DRAW])
def test_what_is_selected_twice_is_refused(dim):
    with pytest.raises(InvalidInputError, match=f"labels of `{dim}` are not unique"):
        WHOLE.isel({dim: [1, 1]}).slt.llc()


@pytest.mark.parametrize("dim", [RESTRICTION, CHAIN, STEP, DRAW, BATCH, POSITION, SEQUENCE])
def test_an_empty_selection_is_refused(dim):
    empty = WHOLE.isel({dim: []})
    for analysis in (
        empty.slt.llc,
        lambda: empty.slt.token_llc("code"),
        empty.slt.bif,
        lambda: empty.slt.susceptibilities("train"),
    ):
        with pytest.raises(InvalidInputError, match=f"nothing is left along `{dim}`: select at least one"):
            analysis()


def test_points_of_several_dims_at_once_are_refused():
    points = xr.DataArray([0, 1], dims="point")
    with pytest.raises(InvalidInputError, match="have the dimension 'point'"):
        WHOLE.isel(chain=points, restriction=points).slt.llc()
    with pytest.raises(InvalidInputError, match="have the dimension 'point'"):
        WHOLE.isel(chain=points).slt.llc()


def test_other_ways_of_saying_the_same():
    want = WHOLE.isel(chain=[1]).slt.llc()["llc_mean"]
    for index in (slice(1, 2), np.array([False, True, False]), xr.DataArray([1], dims=CHAIN), np.int64(1)):
        np.testing.assert_allclose(WHOLE.isel(chain=index).slt.llc()["llc_mean"], want)
    later = WHOLE.sel(step=slice(10, None)).slt.llc()["llc_mean"]
    np.testing.assert_allclose(WHOLE.sel(step=[10.2, *range(11, 24)], method="nearest").slt.llc()["llc_mean"], later)


def test_labels_that_were_dropped():
    kept = WHOLE.isel(chain=[1]).slt.llc()["llc_mean"]
    xr.testing.assert_allclose(
        WHOLE.isel(chain=1, drop=True).slt.llc()["llc_mean"].drop_vars("chain", errors="ignore"), kept
    )
    with pytest.raises(InvalidInputError, match="the run lost the name of its restriction"):
        WHOLE.isel(restriction=1, drop=True).slt.llc()


@pytest.mark.filterwarnings("ignore:The data type")  # zarr's, of a scalar label
@pytest.mark.filterwarnings(
    "ignore:variable None has data in the form of a dask array with dtype=object"
)  # xarray's, of states
@pytest.mark.parametrize(
    "selected",
    [
        lambda tree: tree,
        lambda tree: tree.isel(chain=1, restriction=0),
        lambda tree: tree.isel(restriction=0).chunk(draw=2, step=5),
        lambda tree: tree.sel(position=[2, 4], step=slice(8, 20)),
        lambda tree: tree.isel(draw=3),
    ],
)
def test_a_selection_is_kept_in_a_store_and_in_a_pickle(selected, tmp_path):
    part = selected(WHOLE)
    want = part.slt.llc().compute()
    part.to_zarr(tmp_path / "part.zarr")
    again = [
        devinterp.open(tmp_path / "part.zarr"),
        xr.open_datatree(tmp_path / "part.zarr", engine="zarr", chunks={}),
        pickle.loads(pickle.dumps(part)),
        part.copy(deep=True),
        xr.DataTree.from_dict({path: node.to_dataset(inherit=False) for path, node in part.subtree_with_keys}),
    ]
    for tree in again:
        xr.testing.assert_allclose(tree.slt.llc().compute(), want)


def test_netcdf(tmp_path):
    pytest.importorskip("h5netcdf")
    part = WHOLE.isel(chain=0)
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "part.nc", engine="h5netcdf")
    xr.testing.assert_allclose(again.slt.llc().compute(), part.slt.llc())
    sampled = run(recorders=["weight_norms", "full_loss"], observables={"code": ids("code")})
    sampled.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "run.nc", engine="h5netcdf")
    xr.testing.assert_allclose(again.slt.llc().compute(), sampled.slt.llc())
    xr.testing.assert_allclose(again.slt.bif("sequence").compute(), sampled.slt.bif("sequence"))
    for path in ("full_loss/loss", "weight_norms/distance"):
        np.testing.assert_array_equal(again[f"recordings/{path}"], sampled[f"recordings/{path}"])


class Attending(torch.nn.Module):
    """A model that takes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.inner(input_ids)


@pytest.mark.parametrize("paired", [False, True])
def test_positions_of_padded_text_give_the_reason_where_there_is_no_number(paired):
    mask = torch.ones_like(ids())
    mask[::2, 5:] = 0
    tree = run(Attending().eval(), {"input_ids": ids(), "attention_mask": mask}, paired=paired, num_draws=8)
    part = tree.sel(position=[2, 6]).slt.llc()
    for name in ("llc_mean", "llc_std", "llc_per_chain", "llc_se", "llc_mcse", "rhat", "ess", "init_loss"):
        assert np.isnan(part[name]).all(), name
        assert part[name].attrs["reason"], name
    assert "NaN where text is padded" in part["llc_mean"].attrs["reason"]
    if paired:
        assert np.isfinite(part["paired_llc_mean"])
    assert np.isfinite(tree.slt.llc()["llc_mean"])
    assert "reason" not in tree.slt.llc()["llc_mean"].attrs


def each_group(function: Any, *trees: xr.DataTree) -> xr.DataTree:
    groups = [{node.relative_to(tree): node.to_dataset(inherit=False) for node in tree.subtree} for tree in trees]
    return xr.DataTree.from_dict({path: function(*(each[path] for each in groups)) for path in groups[0]})


def test_parts_that_are_joined_again():
    left, right = WHOLE.isel(chain=[0]), WHOLE.isel(chain=[1, 2])

    def join(*parts: xr.Dataset) -> xr.Dataset:
        if CHAIN not in parts[0].dims:
            return parts[0]
        return xr.concat(parts, CHAIN, data_vars="minimal", coords="minimal", compat="override", join="outer")

    joined = each_group(join, left, right)
    xr.testing.assert_allclose(joined.slt.llc(), WHOLE.slt.llc())
    twice = each_group(join, left, left)
    with pytest.raises(InvalidInputError, match="labels of `chain` are not unique"):
        twice.slt.llc()
    stacked = each_group(lambda group: group if "state" not in group else group.expand_dims(draw=9), WHOLE)
    with pytest.raises(InvalidInputError, match="`status/.*` has the dimension 'draw', which it cannot have"):
        stacked.slt.llc()


def test_dims_in_another_order():
    turned = each_group(lambda group: group.transpose(*reversed(list(group.dims))), WHOLE)
    xr.testing.assert_allclose(turned.slt.llc(), WHOLE.slt.llc())
    xr.testing.assert_allclose(turned.slt.bif(method="sequence"), WHOLE.slt.bif(method="sequence"))


# -- runs of real models ----------------------------------------------------------------------------------------------


def test_scalar_selections_and_squeeze():
    tree = run(weight_restrictions={"full": None, "head": "head.weight"}, observables={"code": ids("code")})
    head = tree.sel(restriction="head")
    whole = tree.slt.llc()
    np.testing.assert_allclose(head.slt.llc()["llc_mean"], whole["llc_mean"][1])
    np.testing.assert_allclose(tree.isel(chain=0).slt.llc()["llc_mean"], whole["llc_per_chain"][:, 0])
    np.testing.assert_allclose(tree.isel(chain=0).squeeze().slt.llc()["llc_mean"], whole["llc_per_chain"][:, 0])
    alone = run(num_chains=1, batch_size=1, observables={"code": ids("code")})
    np.testing.assert_allclose(alone.squeeze().slt.llc()["llc_mean"], alone.slt.llc()["llc_mean"])
    np.testing.assert_allclose(alone.squeeze(drop=True).slt.llc()["llc_mean"], alone.slt.llc()["llc_mean"])
    np.testing.assert_allclose(alone.squeeze().slt.bif()["influences"], alone.slt.bif()["influences"])


@pytest.mark.parametrize(
    ("record", "selection", "what"),
    [
        ("sequence", {"position": slice(0, 3)}, "positions"),
        ("sequence", {"position": 2}, "positions"),
        ("moments", {"position": [1, 2]}, "positions"),
        ("moments", {"draw": slice(0, 2)}, "draws"),
        ("moments", {"draw": 1}, "draws"),
        ("moments", {"sequence": [0, 1]}, "sequences"),
        ("moments", {"batch": 0}, "the rows of a minibatch"),
    ],
)
def test_parts_of_what_means_were_recorded_over_are_refused(record, selection, what):
    tree = run(record=record, observables={"code": ids("code")}, paired=True)
    with pytest.raises(InvalidInputError, match=f"the run recorded means over {what} "):
        tree.isel(selection).slt.llc()


def test_other_selections_of_recorded_means_are_their_parts():
    for record in ("sequence", "moments"):
        tree = run(record=record, observables={"code": ids("code")}, paired=True)
        whole = tree.slt.llc()
        np.testing.assert_allclose(tree.isel(chain=1).slt.llc()["llc_mean"], whole["llc_per_chain"][1])
        np.testing.assert_allclose(tree.sel(chain=[0]).slt.llc()["paired_llc_mean"], whole["paired_llc_per_chain"][0])


def test_slots_of_several_minibatches_are_refused():
    tree = run(gradient_accumulation_steps=2)
    with pytest.raises(InvalidInputError, match="a step of this run has 8 rows in several minibatches"):
        tree.isel(batch=slice(0, 4)).slt.llc()


def test_dims_of_ones_own_loss_can_be_selected():
    def loss_fn(model, batch):
        return model(batch).square().mean(-1)[:, :, None].expand(-1, -1, 2) * model.head.bias.new_tensor([1.0, 3.0])

    tree = run(loss_fn=loss_fn, loss_dims=("place", "kind"), observables={"code": ids("code")})
    for kind in (0, 1):
        part = tree.isel(kind=kind)
        want = 20.0 * (float(part["trace/loss"].mean()) - float(part["trace/init_loss"].mean()))
        np.testing.assert_allclose(part.slt.llc()["llc_mean"], want, rtol=1e-4)


def test_flat_names_of_a_selection():
    tree = run(observables={"code": ids("code")}, num_burnin_steps=3, num_steps_bw_draws=2)
    flat = tree.slt.to_v2()
    part = tree.isel(chain=0, draw=[1, 2]).slt.to_v2()
    np.testing.assert_array_equal(part["sampling_loss"][0], flat["sampling_loss"][0, 1:3])
    later = tree.sel(step=slice(5, None), draw=[1, 2]).slt.to_v2()
    np.testing.assert_array_equal(later["sampling_loss"], flat["sampling_loss"][:, 1:3])
    with pytest.raises(InvalidInputError, match="were left out by a selection"):
        tree.isel(step=slice(0, 4)).slt.to_v2()


@pytest.mark.parametrize("name", ["llc", "temperature", "sensitivity", "diagnose", "to_arviz"])
def test_later_steps_with_their_draws_are_a_run_with_a_longer_burn_in(name):
    tree = synthetic_tree(num_burnin_steps=6, num_draws=30, virial=True)
    later = tree.isel(step=slice(12, None), draw=slice(6, None))
    ours, whole = (getattr(each.slt, name)(burnin=12) for each in (later, tree))
    if name == "to_arviz":
        ours, whole = ours["posterior"].to_dataset(), whole["posterior"].to_dataset()
    floats = [
        each
        for each in whole.data_vars
        if np.issubdtype(whole[each].dtype, np.floating) and "step" not in whole[each].dims
    ]
    assert floats
    for each in floats:
        np.testing.assert_allclose(ours[each], whole[each], rtol=1e-6, err_msg=each)


@pytest.mark.parametrize("name", ["temperature", "sensitivity", "diagnose", "to_arviz"])
def test_draws_without_their_steps_are_refused_by_name(name):
    tree = synthetic_tree(num_burnin_steps=6, num_draws=30, virial=True).isel(step=slice(20, None))
    with pytest.raises(InvalidInputError, match="steps at which draws were taken, 6 first, are not in this tree"):
        getattr(tree.slt, name)()
