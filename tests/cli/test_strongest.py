"""Influences and susceptibilities on the command line: the strongest as text; whole results as JSON, CSV and files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import devinterp
from devinterp.analyses.bif import compute_bif
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.cli.render import show
from devinterp.testing import synthetic_tree
from support.written_trees import write

Run = Callable[..., tuple[int, str, str]]


class Letters:
    """Token id = a word; some would do harm in a terminal."""

    def decode(self, token_ids):
        return "".join(f" [red]w{each}\x1b[2J" if each % 2 else f" w{each}\n" for each in token_ids)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return synthetic_tree(num_restrictions=2, num_chains=2, num_draws=12, observables={"train": (3, 7), "code": (2, 6)})


def shown(result, title, tokenizer=None) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    show(result, title=title, console=console, tokenizer=tokenizer)
    return console.file.getvalue()


def first_numbers(text: str, title: str) -> list[float]:
    """Return the numbers of the table under a title."""
    part = text.split(title, 1)[1].split("strongest", 1)[0]
    return [float(each) for each in re.findall(r"^│ (-?[\d.e-]+)", part, re.MULTILINE)]


@pytest.mark.parametrize("method", ["token", "sequence"])
def test_the_strongest_pairs_are_shown_each_once(tree, method):
    result = compute_bif(tree, method)
    text = shown(result, "bif")
    for name in ("full", "part1"):
        values = result["influences"].sel(restriction=name)
        if method == "token":
            values = values.transpose("batch_1", "target_position", "batch_2", "target_position_T")
            matrix = values.values.reshape(5 * 6, 5 * 6)
        else:
            matrix = values.values
        pairs = matrix[np.triu_indices_from(matrix, 1)]
        pairs = np.sort(pairs[np.isfinite(pairs)])
        positive, negative = pairs[pairs > 0][::-1][:6], pairs[pairs < 0][:6]
        np.testing.assert_allclose(first_numbers(text, f"strongest positive, {name}"), positive, rtol=1e-3)
        if len(negative):
            np.testing.assert_allclose(first_numbers(text, f"strongest negative, {name}"), negative, rtol=1e-3)
    assert "All of it: `devinterp bif STORE -o FILE.zarr` (or .csv, .json)." in text


def test_one_pair_names_its_tokens(tree):
    one = tree.isel(restriction=[0])
    result = compute_bif(one, queries={"code": ([1], [3])}, candidates={"train": ([2], [4])}, standard_errors=True)
    value, error = float(result["influences"].squeeze()), float(result["influences_se"].squeeze())
    text = shown(result, "bif", Letters())
    assert f"{value:.4g} ± {error:.2g}" in text
    assert "code 1:4" in text
    assert "train 2:5" in text
    ids = tree["observables/code/token_ids"].values[1]
    marked = Letters().decode([ids[4]]).replace("\n", "⏎").replace("\x1b", "·")
    assert f"«{marked}»" in text
    assert "\x1b" not in text


def test_of_top_k_the_strongest_are_shown(tree):
    result = compute_bif(tree.isel(restriction=[0]), queries={"code": [0]}, top_k=2, exclude_self=True)
    text = shown(result, "bif")
    values = result["influences"].values.ravel()
    expected = np.sort(values[values > 0])[::-1][:6]
    np.testing.assert_allclose(first_numbers(text, "strongest positive"), expected, rtol=1e-3)
    flat = result["influences"].transpose("batch_1", "target_position", "sign", "rank").values
    where = np.unravel_index(np.nanargmax(flat), flat.shape)
    batch, position = (int(result[name].transpose("batch_1", "target_position", "sign", "rank").values[where])
                       for name in ("candidate_batch", "candidate_position"))  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("│"))
    assert f"code 0:{int(result['target_position'][where[1]])} " in row
    assert f"{result['observable_2'].values[batch]} {int(result['sequence_2'][batch])}:{position} " in row


def test_the_most_susceptible_tokens_of_each_restriction_are_shown(tree):
    result = compute_susceptibilities(tree, "train")
    text = shown(result, "susceptibilities", Letters())
    for name in ("full", "part1"):
        values = result["labelled"]["susceptibility"].sel(restriction=name).values.ravel()
        values = values[np.isfinite(values)]
        for title, expected in (
            ("positive", np.sort(values[values > 0])[::-1]),
            ("negative", np.sort(values[values < 0])),
        ):
            np.testing.assert_allclose(first_numbers(text, f"strongest {title}, {name}"), expected[:6], rtol=1e-3)
    assert "sampling_task=train" in text
    assert "\x1b" not in text


def test_a_result_that_is_too_large_is_not_looked_through(tree, monkeypatch):
    from devinterp.cli import strongest

    monkeypatch.setattr(strongest, "MAX_LOADED", 1000)
    assert "ask for less, for example with --top-k 5" in shown(compute_bif(tree), "bif")
    assert "strongest positive" in shown(compute_bif(tree, "sequence"), "bif")
    monkeypatch.setattr(strongest, "MAX_COMPUTED", 10)
    result = compute_bif(tree.chunk({"draw": 6}))
    assert "ask for less, for example with --top-k 5" in shown(result, "bif")
    assert "ask for less" in shown(compute_susceptibilities(tree.chunk({"draw": 6}), "train"), "susceptibilities")


@pytest.fixture
def store(tree, tmp_path: Path) -> Path:
    return write(tree, tmp_path / "run.zarr")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_json_and_csv_hold_the_whole_result(run: Run, store: Path):
    expected = devinterp.open(store).slt.llc()
    code, out, err = run("llc", store, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["attrs"]["n_beta"] == expected.attrs["n_beta"]
    for name, array in expected.data_vars.items():
        np.testing.assert_array_equal(np.array(data["data_vars"][name]["data"], dtype=float), array.values)
        assert tuple(data["data_vars"][name]["dims"]) == array.dims

    code, out, err = run("llc", store, "--csv")
    assert (code, err) == (0, "")
    rows = [row for row in rows_of(out) if row["variable"] == "observable_llc_mean"]
    found = {(row["restriction"], row["observable"]): float(row["value"]) for row in rows}
    for key, value in found.items():
        assert value == float(expected["observable_llc_mean"].sel(restriction=key[0], observable=key[1]))
    assert len(found) == 4
    code, _, err = run("llc", store, "--csv", "--json")
    assert code == 2
    assert "exclude each other" in err


def test_groups_and_missing_numbers(run: Run, store: Path):
    expected = devinterp.open(store).slt.susceptibilities("train")["labelled"]["susceptibility"]
    code, out, _ = run("susceptibilities", store, "--sampling-task", "train", "--csv")
    assert code == 0
    rows = [row for row in rows_of(out) if (row["group"], row["variable"]) == ("labelled", "susceptibility")]
    assert len(rows) == expected.size
    for row in rows:
        place = {"restriction": row["restriction"], "observable": row["observable"]}
        value = float(expected.sel(place).sel(sequence=int(row["sequence"]), position=int(row["position"])))
        assert row["value"] == ("" if np.isnan(value) else repr(value))
    code, out, _ = run("susceptibilities", store, "--sampling-task", "train", "--json")
    assert set(json.loads(out)) == {"labelled", "susceptibilities", "context"}


def test_files_of_each_kind(run: Run, store: Path, tmp_path: Path):
    for suffix in ("csv", "json", "zarr"):
        output = tmp_path / f"out.{suffix}"
        code, out, err = run("bif", store, "--method", "sequence", "-o", output)
        assert (code, err) == (0, "")
        assert "strongest positive" in out
        assert "All of it" not in out
        assert output.exists()
    assert json.loads((tmp_path / "out.json").read_text())["attrs"]["method"] == "sequence"
    assert (tmp_path / "out.csv").read_text().startswith("restriction,batch_1,batch_2,")
    code, _, err = run("bif", store, "-o", tmp_path / "out.csv")
    assert code == 2
    assert "exists" in err


def test_the_verdict_decides_the_exit_status_in_every_form(run: Run, store: Path):
    code, _, _ = run("diagnose", store)
    assert run("diagnose", store, "--json")[0] == code
    verdict = [row["value"] for row in rows_of(run("diagnose", store, "--csv")[1]) if row["variable"] == "verdict"]
    assert {"ok": 0, "note": 0, "warning": 3, "reject": 4}[verdict[0]] == code


def test_options_take_several_values_as_their_help_shows(run: Run, store: Path):
    _, out, _ = run("bif", "--help")
    assert re.search(r"--queries\s+STR", out)
    one = run("bif", store, "--method", "sequence", "--queries", "code", "train", "--json")
    again = run("bif", store, "--method", "sequence", "--queries", "code", "--queries", "train", "--json")
    assert one == again
    observables = json.loads(one[1])["coords"]["observable_1"]["data"]
    assert observables == ["code"] * 2 + ["train"] * 3
