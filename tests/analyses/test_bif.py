"""The Bayesian influence function against its definition, DevInterp 2, and in any chunks."""

from __future__ import annotations

import json

import dask
import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.bif import analysis as bif
from devinterp.analyses.bif import averaged as _averaged
from devinterp.analyses.bif import compute_bif, pairs
from devinterp.analyses.bif.ranking import strongest_products
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from support.counted_reads import counted
from support.v2_results import recorded_tree, results

V2 = {
    "token": {},
    "token_cov": {"compute_covariance": True},
    "token_mean": {"average_tokenwise_bif": True},
    "sequence": {"correlation_method": "sequence"},
    "sequence_cov": {"method": "sequence", "compute_covariance": True},
    "token_chainmean": {"reduce_chain_dimension_method": "mean"},
}


def _stacked(tree, *names, restriction=0):
    """Losses as ``(sample, sequence, position)`` in float64."""
    losses = [tree[f"observables/{name}/loss"].to_numpy()[restriction].astype(float) for name in names]
    return np.concatenate([loss.reshape(-1, *loss.shape[2:]) for loss in losses], axis=1)


def _correlations(first, second=None, cov=False):
    """The plain definition, pair by pair: ``(sequence, sequence, position, position)``."""
    second = first if second is None else second
    a, b = first.reshape(len(first), -1), second.reshape(len(second), -1)
    a, b = a - a.mean(0), b - b.mean(0)
    product = a.T @ b / (len(a) - 1)
    if not cov:
        with np.errstate(invalid="ignore", divide="ignore"):
            product /= np.outer(a.std(0, ddof=1), b.std(0, ddof=1))
    return product.reshape(*first.shape[1:], *second.shape[1:]).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", V2)
def test_equals_v2(name, lazy):
    tree = recorded_tree("sgld_localized")
    result = compute_bif(tree.chunk({"draw": 5, "sequence": 5}) if lazy else tree, **V2[name])["influences"]
    expected = results()[f"bif/{name}"]
    assert (result.chunks is not None) == lazy
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_what_a_row_is():
    tree = synthetic_tree(observables={"web": (3, 6), "code": (2, 9)})
    result = compute_bif(tree, candidates="web")
    assert result["influences"].dims == ("batch_1", "batch_2", "target_position", "target_position_T")
    assert result["observable_1"].to_numpy().tolist() == ["code", "code", "web", "web", "web"]
    assert result["sequence_1"].to_numpy().tolist() == [0, 1, 0, 1, 2]
    assert result["observable_2"].to_numpy().tolist() == ["web"] * 3
    assert result["target_position"].to_numpy().tolist() == list(range(1, 9))
    assert result["target_position_T"].to_numpy().tolist() == list(range(1, 6))
    np.testing.assert_array_equal(result["input_ids"][1], tree["observables/code/token_ids"][1])
    np.testing.assert_array_equal(result["input_ids"][3, :6], tree["observables/web/token_ids"][1])
    assert (result["input_ids"][2:, 6:] == -1).all()
    # Shorter sequences are NaN past their end; the rest is what each pair gives on its own.
    code, web = _stacked(tree, "code"), _stacked(tree, "web")
    np.testing.assert_allclose(result["influences"][:2], _correlations(code, web), atol=1e-5)
    np.testing.assert_allclose(result["influences"][2:, :, :5], _correlations(web), atol=1e-5)
    assert np.isnan(result["influences"][2:, :, 5:]).all()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("selection", "index"),
    [
        ("code", np.s_[:, :]),
        (["code"], np.s_[:, :]),
        ({"code": slice(1, 4)}, np.s_[1:4, :]),
        ({"code": [5, 0, 2]}, np.s_[[5, 0, 2], :]),
        ({"code": -1}, np.s_[[5], :]),
        ({"code": np.arange(6) % 2 == 1}, np.s_[1::2, :]),
        ({"code": (slice(0, 2), [1, 3, 4])}, np.s_[0:2, [1, 3, 4]]),
        ({"loss_code": (None, slice(2, None))}, np.s_[:, 2:]),
    ],
)
def test_subsets_of_sequences_and_positions(selection, index, lazy):
    tree = synthetic_tree(chunks={"sequence": 2, "draw": 20} if lazy else None)
    result = compute_bif(tree, queries=selection, candidates="train")
    code, train = _stacked(tree, "code"), _stacked(tree, "train")
    np.testing.assert_allclose(result["influences"], _correlations(code[(slice(None), *index)], train), atol=1e-5)
    both = compute_bif(tree, loss_keys=selection)
    np.testing.assert_allclose(both["influences"], _correlations(code[(slice(None), *index)]), atol=1e-5)
    position = np.arange(1, 9)[index[1]]
    assert result["target_position"].to_numpy().tolist() == position.tolist()


def test_a_mask_of_tokens():
    tree = synthetic_tree()
    mask = np.zeros((6, 8), bool)
    mask[1, [2, 5]] = mask[4, [5, 6]] = True
    result = compute_bif(tree, queries={"code": mask}, candidates={"train": [3]})
    assert result["sequence_1"].to_numpy().tolist() == [1, 4]
    assert result["target_position"].to_numpy().tolist() == [3, 6, 7]
    assert np.isfinite(result["influences"]).all(("target_position_T", "batch_2")).to_numpy().tolist() == [
        [True, True, False],
        [False, True, True],
    ]
    averaged = compute_bif(tree, queries={"code": mask}, candidates={"train": [3]}, average_tokenwise_bif=True)
    np.testing.assert_allclose(
        averaged["influences"], result["influences"].mean(("target_position", "target_position_T")), atol=1e-6
    )


def test_ranges_of_rows_count_over_all_observables():
    tree = synthetic_tree()
    whole = compute_bif(tree, method="sequence")["influences"]
    part = compute_bif(tree, method="sequence", batch_index_range_1=range(4, 9), batch_index_range_2=range(3))
    np.testing.assert_allclose(part["influences"], whole[4:9, :3], atol=1e-6)
    assert part["observable_1"].to_numpy().tolist() == ["code", "code", "train", "train", "train"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "web"}, r"`queries` names 'web'; the observables are \['code', 'train'\]"),
        ({"queries": {"code": [6]}}, "integers from -6 to 5"),
        ({"candidates": {"code": np.ones(5, bool)}}, "a boolean mask of length 6"),
        ({"queries": {"code": np.ones((6, 9), bool)}}, r"must have shape \(6, 8\); got \(6, 9\)"),
        ({"queries": {"code": slice(3, 3)}}, "it selects none"),
        ({"batch_index_range_1": range(20, 30)}, "expected a slice, integers from -"),
        ({"batch_index_range_1": []}, "it selects none"),
        ({"method": "sequence", "average_tokenwise_bif": True}, "needs method='token'"),
        ({"top_k": 0}, r"`top_k` \(=0\) must be a positive whole number"),
        ({"burnin": 50}, "number of steps"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        compute_bif(synthetic_tree(), **options)


def test_unknown_words():
    # In these tests the type checker is faster than our own messages at the door.
    with pytest.raises(InvalidInputError, match=r"`method` \(='sentence'\) must be one of 'token', 'sequence'"):
        bif._method("method", "sentence", False)
    with pytest.raises(InvalidInputError, match=r"`centre` \(='none'\)"):
        bif._word("centre", "none", ("pooled", "chain"))


def test_what_is_missing_or_broken():
    with pytest.raises(MissingDataError, match="sample with `observables=`"):
        compute_bif(synthetic_tree(observables={}))
    broken = synthetic_tree(diverged=[(0, 1)])
    with pytest.raises(BrokenChainsError, match="`bif` needs finished chains"):
        compute_bif(broken)
    result = compute_bif(broken, chains="finished")
    assert result.attrs["chains_used"] == [0, 2, 3]
    kept = broken.isel(chain=[0, 2, 3])
    np.testing.assert_allclose(result["influences"], _correlations(_stacked(kept, "code", "train")), atol=1e-5)
    with pytest.raises(InvalidInputError, match="at least two"):
        compute_bif(synthetic_tree(num_chains=1), standard_errors=True)


def test_noise_of_another_level_is_named():
    tree = synthetic_tree()
    assert "noise_level" not in compute_bif(tree).attrs
    tree.attrs["config"] = json.dumps(json.loads(tree.attrs["config"]) | {"noise_level": 0.5})
    assert compute_bif(tree).attrs["noise_level"] == 0.5


def test_burnin_leaves_out_draws():
    tree = synthetic_tree(num_burnin_steps=10, num_draws=30)
    later = tree.isel(draw=slice(15, None))
    result = compute_bif(tree, burnin=25)
    np.testing.assert_allclose(result["influences"], _correlations(_stacked(later, "code", "train")), atol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_constant_trace_is_nan_with_its_place_named(lazy):
    tree = synthetic_tree(ragged=True)
    loss = tree["observables/code/loss"]
    loss[:, :, :, 0, 1] = 1.25
    loss[0, :, :, 2] = np.arange(8)
    tree = tree.chunk({"sequence": 2}) if lazy else tree
    result = compute_bif(tree)
    constant = np.argwhere(result["constant_1"].to_numpy())
    assert constant.tolist() == [[0, 1], *([2, p] for p in range(8))]
    np.testing.assert_array_equal(result["constant_1"], result["constant_2"])
    assert np.isnan(result["influences"][0, :, 1]).all()
    assert not np.isinf(result["influences"]).any()
    # What has to do with neither is as it was.
    expected = compute_bif(synthetic_tree(ragged=True))["influences"]
    # Products of other shapes: on some processors they are rounded differently.
    np.testing.assert_allclose(result["influences"][1, 6:], expected[1, 6:], rtol=0, atol=1e-6)
    averaged = compute_bif(tree, average_tokenwise_bif=True)
    assert np.isnan(averaged["influences"][[0, 2]]).all()
    assert np.isfinite(averaged["influences"][6:, 6:]).all()
    covariance = compute_bif(tree, compute_covariance=True)["influences"]
    np.testing.assert_array_equal(covariance[0, 6, 1, 0], 0)
    sequences = compute_bif(tree, "sequence")
    assert sequences["constant_1"].to_numpy().tolist() == [False, False, True] + [False] * 11


@pytest.mark.parametrize("reduce", ["stack", "mean"])
@pytest.mark.parametrize("detrend", [False, True])
def test_centring_within_chains_and_detrending(reduce, detrend):
    tree = synthetic_tree(drift=0.3, observables={"code": (3, 5)})
    loss = tree["observables/code/loss"].to_numpy()[0].astype(float)
    loss = loss.mean(0, keepdims=True) if reduce == "mean" else loss
    num_chains, num_draws = loss.shape[:2]
    flat = loss.reshape(num_chains, num_draws, -1)
    design = np.vander(np.arange(num_draws), 2 if detrend else 1)
    residual = np.stack([one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in flat])
    rows = residual.reshape(-1, flat.shape[2])
    covariance = rows.T @ rows / (len(rows) - num_chains * design.shape[1])
    options = {"centre": "chain", "detrend": detrend, "reduce_chain_dimension_method": reduce}
    result = compute_bif(tree, compute_covariance=True, **options)
    expected = covariance.reshape(3, 4, 3, 4).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(result["influences"], expected, atol=1e-5 * np.abs(expected).max())
    assert ("drift_share" in result) == detrend


@pytest.mark.parametrize("chunks", [None, {"chain": 3, "draw": 7, "sequence": 2}])
@pytest.mark.parametrize("reduce", ["stack", "mean"])
@pytest.mark.parametrize("centre", ["pooled", "chain"])
@pytest.mark.parametrize("detrend", [False, True])
def test_averages_are_those_of_all_pairs_of_positions(detrend, centre, reduce, chunks):
    """Also where a trace's first value, which is subtracted from all, lies far from the others, and with padding."""
    tree = synthetic_tree(ragged=True)
    loss = tree["observables/code/loss"]
    loss[0, 0, 0, 1, 2] += 1000
    loss[0, 1, 0, 3, 0] -= 300
    tree = tree.chunk(chunks) if chunks else tree
    options = {"detrend": detrend, "centre": centre, "reduce_chain_dimension_method": reduce}
    blocks = compute_bif(tree, **options)["influences"]
    assert np.isnan(blocks).any()
    expected = blocks.mean(("target_position", "target_position_T"))
    result = compute_bif(tree, average_tokenwise_bif=True, **options)["influences"]
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blocks_of_any_size_give_the_same_averages(monkeypatch):
    tree = synthetic_tree(ragged=True).chunk({"draw": 7})
    expected = compute_bif(tree, average_tokenwise_bif=True)["influences"].compute()
    for tokens, numbers in ((8, 32), (17, 100), (1, 1)):
        monkeypatch.setattr(_averaged, "_TOKENS", tokens)
        monkeypatch.setattr(_averaged, "_NUMBERS", numbers)
        result = compute_bif(tree, average_tokenwise_bif=True)["influences"]
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_detrending_removes_what_only_drift_shares_and_says_how_much():
    tree = synthetic_tree(num_draws=400, drift=0.5, observables={"code": (4, 9)})
    result = compute_bif(tree, "sequence", detrend=True)
    loss = tree["observables/code/loss"].to_numpy()[0].astype(float).mean(-1)
    centred = loss - loss.mean(1, keepdims=True)
    time = np.arange(400) - 199.5
    slopes = np.einsum("d,cds->cs", time, centred) / (time @ time)
    share = (slopes.T @ slopes) * (time @ time) / np.einsum("cds,cdu->su", centred, centred)
    np.testing.assert_allclose(result["drift_share"], share, rtol=1e-3)
    assert np.diag(result["drift_share"]).mean() > 0.1
    calm = compute_bif(synthetic_tree(num_draws=400, observables={"code": (4, 9)}), detrend=True)
    assert np.diag(calm["drift_share"]).mean() < 0.02
    # An exactly linear trace leaves nothing but rounding, which is not correlated with anything.
    tree["observables/code/loss"][0, :, :, 0, 0] = 2 + np.linspace(0, 1, 400)
    assert np.isnan(compute_bif(tree, detrend=True)["influences"][0, :, 0]).all()


@pytest.mark.parametrize(
    "options", [{}, {"method": "sequence"}, {"average_tokenwise_bif": True}, {"compute_covariance": True}]
)
def test_jackknife(options):
    tree = synthetic_tree(observables={"code": (3, 5)})
    result = compute_bif(tree, standard_errors=True, **options)
    left_out = np.stack(
        [compute_bif(tree.isel(chain=np.delete(np.arange(4), n)), **options)["influences"] for n in range(4)]
    )
    expected = np.sqrt(3 / 4 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(result["influences_se"], expected, rtol=1e-3, atol=1e-6)
    assert result["influences_se"].attrs["degrees_of_freedom"] == 3


def _brute_strongest(matrix, k):
    order = np.argsort(-matrix, kind="stable")
    return [i for i in order[:k] if matrix[i] > 0], [i for i in order[::-1][:k] if matrix[i] < 0]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("options", [{}, {"method": "sequence"}, {"average_tokenwise_bif": True}])
def test_top_k_are_the_strongest_of_the_full_matrix(options, exclude_self, lazy):
    tree = synthetic_tree(observables={"web": (40, 12), "code": (30, 9)}, ragged=True)
    full = compute_bif(tree, queries={"code": slice(0, 5)}, **options)["influences"]
    lazily = tree.chunk({"sequence": 3}) if lazy else tree
    result = compute_bif(lazily, queries={"code": slice(0, 5)}, top_k=7, exclude_self=exclude_self, **options)
    assert (result["influences"].chunks is not None) == lazy
    result = result.compute()
    tokens = not options
    full = (
        full
        if tokens
        else full.expand_dims(target_position=1, target_position_T=1).transpose("batch_1", "batch_2", ...)
    )
    sequences = np.concatenate([np.arange(30), np.arange(40)])
    for query in range(5):
        for position in range(full.sizes["target_position"]):
            row = full.to_numpy()[query, :, position].copy()  # (candidate, position)
            if exclude_self:
                row[query, position] = np.nan
            flat = np.nan_to_num(row.reshape(-1))
            for sign, expected in enumerate(_brute_strongest(flat, 7)):
                entry = result.isel(batch_1=query, sign=sign)
                entry = entry.isel(target_position=position) if tokens else entry
                num = len(expected)
                np.testing.assert_allclose(entry["influences"][:num], flat[expected], atol=1e-6)
                assert np.isnan(entry["influences"][num:]).all()
                row_of, column_of = np.unravel_index(expected, row.shape) if expected else ([], [])
                assert entry["candidate_batch"].to_numpy().tolist() == [*row_of, *[-1] * (7 - num)]
                assert entry["candidate_sequence"].to_numpy().tolist() == [*sequences[row_of], *[-1] * (7 - num)]
                if tokens:
                    assert entry["candidate_position"].to_numpy().tolist() == [
                        *(np.asarray(column_of) + 1),
                        *[-1] * (7 - num),
                    ]


def test_top_k_with_more_candidates_than_a_group():
    tree = synthetic_tree(observables={"web": (150, 21)}, num_draws=30)
    full = (
        compute_bif(tree)["influences"]
        .transpose("batch_1", "target_position", "batch_2", "target_position_T")
        .to_numpy()
    )
    result = compute_bif(tree, top_k=5)["influences"].to_numpy()
    flat = np.sort(full.reshape(150, 20, -1))
    np.testing.assert_allclose(result[:, :, 0], flat[..., ::-1][..., :5], atol=1e-6)
    np.testing.assert_allclose(result[:, :, 1], flat[..., :5], atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "chunks", [{"sequence": 1}, {"sequence": 3}, {"sequence": 7, "draw": 9}, {"chain": 3, "sequence": 32}]
)
@pytest.mark.parametrize(
    "options", [{}, {"compute_covariance": True}, {"method": "sequence"}, {"average_tokenwise_bif": True}]
)
def test_equal_influences_stand_in_the_order_of_candidates(options, chunks):
    """Every sequence is there four times: which copies are among the strongest does not depend on chunks."""
    tree = synthetic_tree(observables={"code": (10, 9)})
    copies = tree.isel(sequence=np.tile(np.arange(10), 4), missing_dims="ignore")
    expected = compute_bif(copies, top_k=6, **options)
    result = compute_bif(copies.chunk(chunks), top_k=6, **options)
    names = ["candidate_sequence"] + ["candidate_position"] * ("candidate_position" in expected)
    for name in names:
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)
    # The six strongest are four copies of one and the first two of another, each group in order.
    first = expected["candidate_sequence"].isel(batch_1=0, sign=0).to_numpy().reshape(-1, 6)
    assert (np.diff(first[:, :4], axis=1) == 10).all()
    assert (first[:, 4] < 10).all()
    assert (first[:, 5] - first[:, 4] == 10).all()


def test_ranking_is_that_of_a_plain_sort():
    """Also of rows in which all entries are equal, and with more equal entries than are asked for."""
    rng = np.random.default_rng(0)
    for num_columns, k in ((3, 5), (40, 4), (400, 3), (1000, 40)):
        right = rng.integers(-3, 4, size=(1, 2, num_columns)).astype(np.float32)
        left = rng.integers(-2, 3, size=(1, 2, 30)).astype(np.float32)
        left[0, :, 0], left[0, :, 1] = 0, np.nan
        columns = np.arange(num_columns) + 5
        result = strongest_products(left, right, columns, None, k)
        for row, values in enumerate(np.nan_to_num(left[0].T @ right[0])):
            for index, sign in enumerate((1, -1)):
                order = np.argsort(-sign * values, kind="stable")[:k]
                order = order[sign * values[order] > 0]
                entries = result[0, row, index]
                assert entries["column"].tolist() == [*columns[order], *[-1] * (k - len(order))]
                np.testing.assert_array_equal(entries["value"][: len(order)], values[order])
                assert np.isnan(entries["value"][len(order) :]).all()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"method": "sequence"}, {"average_tokenwise_bif": True}])
@pytest.mark.parametrize("centre", ["pooled", "chain"])
@pytest.mark.parametrize("covariance", [True, False])
def test_a_candidate_that_is_not_a_number_displaces_none(covariance, centre, options, lazy):
    """Not even where only one draw of one chain is not a number."""
    options = {
        **options,
        "compute_covariance": covariance,
        "centre": centre,
        "top_k": 4,
        "queries": {"code": slice(0, 6)},
    }
    tree = synthetic_tree(observables={"code": (40, 9)})
    tree["observables/code/loss"][0, 2, 7, 11] = np.nan
    tree["observables/code/loss"][0, 2, 7, 3] = np.inf
    others = [n for n in range(40) if n not in (3, 11)]
    expected = compute_bif(tree, candidates={"code": others}, **options)
    result = compute_bif(tree.chunk({"sequence": 16}) if lazy else tree, **options)
    for name in ("candidate_sequence", "influences"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5)
    assert np.isnan(result["influences"].isel(batch_1=3)).all()
    assert (result["candidate_sequence"].isel(batch_1=3) == -1).all()


def test_isel_computes_only_its_part():
    tree = synthetic_tree(observables={"web": (40, 9)})
    source = counted(tree, "observables/web/loss", (1, 1, 25, 4, 8))
    result = compute_bif(tree)
    assert source.read == []
    part = result["influences"].isel(batch_1=slice(0, 2), batch_2=[5]).compute()
    # The 8 pieces along chains and draws of those two groups of sequences that the part lies in.
    assert sorted({(index[3].start, index[3].stop) for index in source.read}) == [(0, 4), (4, 8)]
    assert len(source.read) == 2 * 8
    np.testing.assert_allclose(part, _correlations(_stacked(tree, "web"))[:2, [5]], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"method": "sequence"}, {"average_tokenwise_bif": True}, {"top_k": 3, "queries": {"web": slice(0, 4)}}, {}],
)
def test_each_chunk_is_read_once(options):
    tree = synthetic_tree(observables={"web": (40, 9)}, num_restrictions=2)
    source = counted(tree, "observables/web/loss", (1, 1, 25, 4, 8))
    influences = compute_bif(tree, **options)["influences"]
    with dask.config.set(scheduler="synchronous"):
        influences.compute()
    num_chunks = 2 * 4 * 2 * 10
    extra = 2 * 4 * 2 if "queries" in options else 0  # the queries are candidates too
    assert num_chunks <= len(source.read) <= num_chunks + extra


def test_streams_to_zarr(tmp_path):
    tree = synthetic_tree(observables={"web": (40, 9)}, chunks={"sequence": 8})
    result = compute_bif(tree)
    result.drop_encoding().to_zarr(tmp_path / "bif.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "bif.zarr", consolidated=False)
    np.testing.assert_allclose(again["influences"], compute_bif(tree.load())["influences"], atol=1e-6)
    assert again["observable_1"].to_numpy().tolist() == ["web"] * 40


@pytest.mark.parametrize("options", [{}, {"method": "sequence"}, {"standard_errors": True}])
def test_a_large_result_is_lazy_although_the_losses_are_in_memory(options, monkeypatch):
    tree = synthetic_tree(num_restrictions=2)
    expected = compute_bif(tree, **options)
    assert expected["influences"].chunks is None
    monkeypatch.setattr(pairs, "LAZY_BYTES", expected["influences"].nbytes - 1)
    result = compute_bif(tree, **options)
    assert result["influences"].chunks is not None
    xr.testing.assert_allclose(result.compute(), expected, atol=1e-6)


def test_restrictions_are_kept_apart():
    tree = synthetic_tree(num_restrictions=3)
    for options in ({}, {"method": "sequence"}, {"top_k": 3}):
        result = compute_bif(tree, **options)
        assert result["restriction"].to_numpy().tolist() == ["full", "part1", "part2"]
        for name in ("full", "part2"):
            alone = compute_bif(tree.sel(restriction=[name]), **options)
            xr.testing.assert_allclose(
                result.sel(restriction=name, drop=True).drop_attrs(), alone.drop_attrs(), atol=1e-6
            )


def test_models_with_one_loss_per_sample():
    tree = synthetic_tree(observables={"train": (5, 2)})
    loss = tree["observables/train/loss"]
    flat = tree.copy()
    flat["observables/train"] = xr.DataTree(
        tree["observables/train"].to_dataset(inherit=False).isel(position=0, drop=True)
    )
    np.testing.assert_allclose(
        compute_bif(flat, "sequence")["influences"], compute_bif(tree, "sequence")["influences"], atol=1e-6
    )
    assert compute_bif(flat)["influences"].shape == (loss.sizes["sequence"],) * 2 + (1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_losses_of_several_heads_at_each_position(dtype):
    """Dims of the user's own beside positions: every pair of a position and a head counts as a token."""
    tree = synthetic_tree(observables={"train": (3, 5)})
    loss = tree["observables/train/loss"].astype(dtype)
    heads = tree.copy()
    dataset = tree["observables/train"].to_dataset(inherit=False).drop_vars(["loss", "init_loss"])
    heads["observables/train"] = xr.DataTree(
        dataset.assign(loss=xr.concat([loss, loss**2], "head").transpose(..., "head"))
    )
    result = compute_bif(heads)
    assert result["target_position"].to_numpy().tolist() == list(range(1, 9))
    both = np.stack([loss.to_numpy(), loss.to_numpy() ** 2], -1)[0].astype(float)
    expected = _correlations(both.reshape(-1, 3, 8))
    np.testing.assert_allclose(result["influences"], expected, atol=2e-5)


def test_losses_stored_in_half_precision():
    tree = synthetic_tree(observables={"train": (5, 9)})
    half = tree.copy(deep=True)
    half["observables/train/loss"] = tree["observables/train/loss"].astype(np.float16)
    rounded = tree.copy(deep=True)
    rounded["observables/train/loss"] = half["observables/train/loss"].astype(np.float32)
    for lazy in (half, half.chunk({"sequence": 2})):
        np.testing.assert_allclose(compute_bif(lazy)["influences"], compute_bif(rounded)["influences"], atol=1e-6)
