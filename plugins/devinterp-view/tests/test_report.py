"""A report holds the numbers of the analyses, says what it lacks, and stays small whatever the run."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

from devinterp import errors
from devinterp.analyses.llc import compute_llc, estimates, token_llc
from devinterp.testing import synthetic_tree
from devinterp_view.budget import Limits
from devinterp_view.report import MARK, render, report
from support.report_page import Page, floats, integers

OBSERVABLES = {"train": (5, 14), "code": (4, 11)}


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return synthetic_tree(
        num_restrictions=3, num_chains=3, num_draws=40, num_burnin_steps=10, observables=OBSERVABLES, virial=True
    )


@pytest.fixture(scope="module")
def page(tree) -> Page:
    return Page(render(tree, sampling_task="train", limits=Limits(passages=2, top_k=3)))


def test_the_verdict_and_its_findings_are_those_of_diagnose(tree, page):
    result = tree.slt.diagnose()
    badges = [attrs["class"].split()[1] for _, attrs in page.tags if (attrs.get("class") or "").startswith("badge ")]
    assert badges[0] == result.attrs["verdict"]
    for code, message in zip(result["code"].values, result["message"].values, strict=True):
        assert code in page.texts["summary"]
        assert message in page.texts["summary"]
    for check, reason in zip(result["check"].values, result["reason"].values, strict=True):
        assert not reason or (check in page.texts["summary"] and reason in page.texts["summary"])


def test_coefficients_are_those_of_llc(tree, page):
    table = estimates(compute_llc(tree))
    rows = page.cells["coefficient-table"][1:]
    names = [f"{r} · {e}" for r in table["restriction"].values for e in table["estimate"].values]
    assert [row[0] for row in rows] == names
    for column, key in ((1, "mean"), (2, "lower"), (3, "rhat"), (4, "ess")):
        expected = table[key].transpose("restriction", "estimate").values.ravel()
        np.testing.assert_array_equal([float(row[column] or "nan") for row in rows], expected)
    assert page.texts["headline"].startswith("paired LLC of full: ")


def test_running_coefficients_end_at_those_of_the_chains(tree):
    html = render(tree)
    found = re.findall(r"chain (\d+): <b>([^<]+)</b>", html)
    expected = compute_llc(tree)["paired_llc_per_chain"].transpose("restriction", "chain").values.ravel()
    assert len(found) == len(expected)
    np.testing.assert_allclose([float(text) for _, text in found], expected, rtol=6e-4)


def test_restrictions_stand_with_their_mean_susceptibilities(tree, page):
    labelled = tree.slt.susceptibilities("train")["labelled"]
    expected = labelled["susceptibility"].mean(["sequence", "position"]).sel(observable="code").values
    rows = page.cells["restriction-table"][1:]
    assert [row[0] for row in rows] == list(tree["restriction"].values)
    np.testing.assert_allclose([float(row[-1]) for row in rows], expected, rtol=1e-6, atol=1e-12)


def test_layers_are_the_coefficients_and_susceptibilities_of_tokens(tree, page):
    chi = tree.slt.susceptibilities("train", include_sampling_task=True)["labelled"]
    layers = {(each["kind"], each["restriction"]): each for each in page.data["layers"]}
    assert len(layers) == 6
    for name in tree["restriction"].values:
        values, sizes, chis = [], [], []
        for observable, (_, length) in OBSERVABLES.items():
            of_tokens = token_llc(tree, observable)
            for sequence in range(2):
                one = of_tokens.sel(restriction=name).isel(sequence=sequence)
                values += [np.nan, *one["llc"].values]
                sizes += [np.nan, *one["llc_se"].values]
                same = chi["susceptibility"].sel(restriction=name, observable=observable).isel(sequence=sequence)
                chis += [np.nan, *same.values[: length - 1]]
        llc, susceptibility = layers["llc", name], layers["susceptibility", name]
        np.testing.assert_array_equal(floats(llc["values"]), np.float32(values))
        np.testing.assert_array_equal(floats(llc["errors"]), np.float32(sizes))
        np.testing.assert_allclose(floats(susceptibility["values"]), np.float32(chis), rtol=1e-5, atol=1e-12)


def test_influences_are_those_of_bif(tree, page):
    influence = page.data["influence"]
    assert influence["restriction"] == "full"
    side = {"code": [1]}
    full = tree.isel(restriction=[0])
    pairs = full.slt.bif(queries=side, candidates=side, standard_errors=True)
    block = floats(influence["blocks"][3]).reshape(11, 11)
    assert np.isnan(block[0]).all()
    # Products of other shapes: on some processors they are rounded differently.
    np.testing.assert_allclose(block[1:, 1:], pairs["influences"].values[0, 0], rtol=1e-5, atol=1e-6)
    errors_of_block = floats(influence["block_errors"][3]).reshape(11, 11)
    np.testing.assert_allclose(errors_of_block[1:, 1:], pairs["influences_se"].values[0, 0], rtol=1e-5, atol=1e-6)

    shape = (sum(each["length"] for each in page.data["passages"]), 2, 3)
    values, row, position, found_errors = (
        unpack(influence[key]).reshape(shape)
        for key, unpack in (("values", floats), ("row", integers), ("position", integers), ("errors", floats))
    )
    strongest = full.slt.bif(queries=side, top_k=3, exclude_self=True)
    start = shape[0] - 11
    # Of other queries at the same time: equal but for the rounding of float32.
    np.testing.assert_allclose(values[start + 1 :], strongest["influences"].values[0], rtol=5e-7)
    np.testing.assert_array_equal(position[start + 1 :], strongest["candidate_position"].values[0])
    batch = strongest["candidate_batch"].values[0]
    observable, sequence = strongest["observable_2"].values, strongest["sequence_2"].values
    for index in np.ndindex(batch.shape):
        of_row = influence["rows"][row[start + 1 :][index]]
        assert of_row["label"] == f"{observable[batch[index]]} {sequence[batch[index]]}"
    whole = full.slt.bif(queries=side, standard_errors=True)
    expected = [
        [
            [whole["influences_se"].values[0, batch[q, s, k], q, position[start + 1 + q, s, k] - 1] for k in range(3)]
            for s in range(2)
        ]
        for q in range(10)
    ]
    np.testing.assert_allclose(found_errors[start + 1 :], expected, rtol=1e-4, atol=1e-6)


def test_settings_and_provenance_are_there(tree, page):
    for key, value in json.loads(tree.attrs["config"]).items():
        assert key in page.texts["settings"]
        assert isinstance(value, list | dict) or json.dumps(value) in page.texts["settings"]
    assert "synthetic_tree.seed" in page.texts["provenance"]


def test_a_lazy_tree_gives_the_same_page():
    tree = synthetic_tree(num_restrictions=2, num_chains=2, num_draws=12, observables={"train": (2, 7), "code": (1, 6)})
    options = {"sampling_task": "train", "limits": Limits(passages=1)}
    lazy, expected = render(tree.chunk({"draw": 7, "step": 11}), **options), render(tree, **options)
    data = [Page(html).data for html in (lazy, expected)]
    # Products of other shapes: on some processors they are rounded differently.
    for name in ("blocks", "block_errors"):
        for found, block in zip(*(each["influence"].pop(name) for each in data), strict=True):
            np.testing.assert_allclose(floats(found or ""), floats(block or ""), rtol=1e-5, atol=1e-6)
    for name in ("values", "errors"):
        np.testing.assert_allclose(*(floats(each["influence"].pop(name)) for each in data), rtol=1e-5, atol=1e-6)
    assert data[0] == data[1]
    assert lazy.replace(Page(lazy).scripts[0], "") == expected.replace(Page(expected).scripts[0], "")


def test_passages_can_be_chosen(tree):
    page = Page(render(tree, passages={"code": [3, 0]}))
    assert [each["label"] for each in page.data["passages"]] == ["code 3", "code 0"]
    ids = tree["observables/code/token_ids"].values
    text = page.texts["tokens"]
    assert text.index(" ".join(map(str, ids[3]))) < text.index(" ".join(map(str, ids[0])))
    with pytest.raises(errors.InvalidInputError, match="'prose' is not one of 'train', 'code'"):
        render(tree, passages={"prose": None})
    with pytest.raises(errors.InvalidInputError, match=r"passages of 'code' must be 0 to 3; got \[4\]"):
        render(tree, passages={"code": [4]})
    with pytest.raises(errors.InvalidInputError, match="restriction: 'part9' is not one of"):
        render(tree, restriction="part9")


def test_what_was_left_out_is_said():
    tree = synthetic_tree(num_restrictions=15, num_chains=2, num_draws=12, observables={"a": (9, 40)})
    limits = Limits(passages=4, tokens=50, tokens_of_passage=30, candidates=3)
    page = Page(render(tree, sampling_task="a", limits=limits))
    assert "The first 12 of 15 restrictions are shown." in page.texts["traces"]
    tokens = page.texts["tokens"]
    assert "10 more tokens are left out." in tokens
    assert "The first 2 of 4 passages are shown: 50 tokens." in tokens
    assert "The strongest influences were looked for in 3 of 9 sequences." in tokens


class LongWinded:
    """Every token is a long text."""

    def decode(self, ids):
        return "".join(f"<{token}é\u202e" + 3000 * "ab" for token in ids)


def test_the_file_does_not_grow_with_the_run(monkeypatch):
    from devinterp_view import influences as module

    monkeypatch.setattr(module, "MAX_CANDIDATE_TOKENS", 200)
    sizes = []
    for num_restrictions, num_sequences, length, num_draws in ((2, 4, 80, 12), (6, 40, 160, 60)):
        tree = synthetic_tree(
            num_restrictions=num_restrictions, num_chains=2, num_draws=num_draws,
            observables={"a": (num_sequences, length), "b": (2, 9)},
        )  # fmt: skip
        limits = Limits(passages=1, tokens_of_passage=60, top_k=2)
        html = render(tree.isel(restriction=slice(0, 2)), tokenizer=LongWinded(), sampling_task="a", limits=limits)
        sizes.append(len(html))
    assert sizes[1] < 1.25 * sizes[0]
    assert max(sizes) < 2**20


def test_strongest_influences_are_as_many_as_there_is_room_for(monkeypatch):
    from devinterp_view import influences as module

    monkeypatch.setattr(module, "MAX_TOP_BYTES", 2 * 32 * 12)
    page = Page(render(synthetic_tree(num_chains=2, num_draws=12, observables={"a": (2, 6)}), limits=Limits(top_k=9)))
    assert page.data["influence"]["rank"] == 2
    assert "Of each token the 2 strongest influences of each sign are kept, not 9." in page.texts["tokens"]


def test_runs_that_lack_something_say_so():
    page = Page(render(synthetic_tree(num_draws=12, observables={})))
    assert "This run has no observables." in page.texts["tokens"]
    assert page.data["layers"] == []

    one = Page(render(synthetic_tree(num_draws=12, num_chains=2, observables={"a": (2, 6)})))
    assert "No susceptibilities of tokens: they compare weight restrictions" in one.texts["tokens"]
    several = synthetic_tree(num_restrictions=2, num_draws=12, num_chains=2, observables=OBSERVABLES)
    assert "No susceptibilities of tokens" in Page(render(several)).texts["tokens"]  # which is the sampling task?


def test_chains_that_did_not_finish_are_left_out_and_named():
    tree = synthetic_tree(num_chains=3, num_draws=20, diverged=[(0, 1)], observables={"a": (2, 6)})
    page = Page(render(tree))
    assert "chain 1: diverged" in page.texts["summary"]
    expected = estimates(compute_llc(tree, chains="finished"))["mean"].values
    np.testing.assert_array_equal([float(row[1]) for row in page.cells["coefficient-table"][1:]], expected)
    np.testing.assert_array_equal(
        floats(page.data["layers"][0]["values"])[1:6],
        np.float32(token_llc(tree, chains="finished")["llc"].values[0]),
    )
    broken = synthetic_tree(num_chains=2, num_draws=20, diverged=[(0, 0), (0, 1)], observables={"a": (2, 6)})
    page = Page(render(broken))
    assert page.data["layers"] == []
    assert "coefficient-table" not in page.cells
    assert "No learning coefficients of tokens" in page.texts["tokens"]
    badge = next(attrs["class"] for _, attrs in page.tags if (attrs.get("class") or "").startswith("badge "))
    assert badge == "badge reject"


def test_only_reports_are_written_over(tmp_path):
    tree = synthetic_tree(num_draws=12, observables={})
    path = tmp_path / "new" / "report.html"
    assert report(tree, path) == path
    assert path.read_text().startswith(MARK)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(errors.InvalidInputError, match="exists: choose another name"):
        report(tree, path)
    report(tree, path, overwrite=True)
    other = tmp_path / "mine.html"
    other.write_text("mine")
    with pytest.raises(errors.InvalidInputError, match="it is no report of devinterp"):
        report(tree, other, overwrite=True)
    assert other.read_text() == "mine"
    with pytest.raises(errors.InvalidInputError, match=r"must end in '\.html'"):
        report(tree, tmp_path / "report.pdf")


def test_limits_are_checked():
    with pytest.raises(errors.InvalidInputError, match=r"`num_runs` \(=201\) must be 0 to 200"):
        render(synthetic_tree(num_draws=4), num_runs=201)
    with pytest.raises(errors.InvalidInputError, match=r"`top_k` \(=0\) must be 1 to 50"):
        Limits(top_k=0)
