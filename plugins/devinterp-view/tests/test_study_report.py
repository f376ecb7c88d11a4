"""A report of a study lists all runs, draws coefficients along what varies, and has the pages there is room for."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

from devinterp.testing import synthetic_tree
from devinterp_view import study
from devinterp_view.budget import Limits
from devinterp_view.chart import BOTTOM, HEIGHT, TOP
from devinterp_view.report import render
from support.browser import emulate, requests_of, start_browser, violations
from support.hostile_texts import CORPUS, Hostile
from support.report_page import Page, floats
from support.study_trees import study_tree

LABELS = [{"checkpoint": step, "kernel": kernel} for step in (0, 1, 10, 100) for kernel in ("sgld", "baoab")]
LIMITS = Limits(passages=1, top_k=2)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return study_tree(LABELS, num_restrictions=2, num_draws=12, num_chains=2, observables={"a": (1, 9)})


@pytest.fixture(scope="module")
def html(tree) -> str:
    return render(tree, num_runs=3, limits=LIMITS, source="synthetic")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_all_runs_are_listed_with_their_verdict_and_coefficient(tree, page):
    rows = page.cells["run-table"][1:]
    assert [row[0] for row in rows] == list(tree.children)
    llc = tree.slt.llc()["paired_llc_mean"].isel(restriction=0)
    severities = ["ok", "note", "warning", "reject"]
    for row, labels, run in zip(rows, LABELS, tree.children.values(), strict=True):
        assert float(row[1]) == labels["checkpoint"]
        assert row[2] == labels["kernel"]
        assert severities[int(row[3])] == run.slt.diagnose().attrs["verdict"]
        assert float(row[4]) == float(llc.sel(**labels))


def test_as_many_runs_as_asked_for_have_their_pages(tree, page, html):
    assert "The first 3 of 8 runs have a page below" in page.texts["runs"]
    assert len(page.data["runs"]) == 3
    for number, run in enumerate(list(tree.children.values())[:3]):
        layer = page.data["runs"][number]["layers"][0]
        expected = run.slt.token_llc("a").isel(restriction=0, sequence=0)["llc"].values
        np.testing.assert_array_equal(floats(layer["values"])[1:], np.float32(expected))
        diagnosis = run.slt.diagnose()
        for code in diagnosis["code"].values:
            assert code in page.texts[f"summary-{number}"]
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(set(identifiers)) == len(identifiers)


def test_coefficients_are_drawn_along_what_varies(tree, html):
    figures = dict(re.findall(r'<figure data-dim="(\w+)">(.*?)</figure>', html, re.DOTALL))
    assert set(figures) == {"checkpoint", "kernel"}
    circle = r'<circle class="(?:hollow line )?l\d" cx="([\d.]+)" cy="([\d.]+)" r="3.5">'
    title = r"<title>checkpoint=(\d+),kernel=(\w+), (\w+): "
    points = re.findall(circle + title, figures["checkpoint"])
    assert len(points) == 2 * 8
    llc, errors = tree.slt.llc()["paired_llc_mean"], tree.slt.llc()["paired_llc_se"]
    heights = np.array([float(y) for _, y, *_ in points])
    values = np.array(
        [float(llc.sel(checkpoint=int(step), kernel=kernel, restriction=r)) for *_, step, kernel, r in points]
    )
    low, high = float((llc - errors).min()), float((llc + errors).max())
    pad = 0.06 * (high - low)
    expected = HEIGHT - BOTTOM - (values - low + pad) / (high - low + 2 * pad) * (HEIGHT - TOP - BOTTOM)
    np.testing.assert_allclose(heights, expected, atol=0.011)
    places = {int(step): float(x) for x, _, step, *_ in points}
    gaps = np.diff([places[step] for step in (0, 1, 10, 100)])
    np.testing.assert_allclose(gaps, gaps[0], atol=0.02)  # logarithmic, with a zero in front
    assert ">sgld<" in figures["kernel"]
    bad = sum(run.slt.diagnose().attrs["verdict"] in ("warning", "reject") for run in tree.children.values())
    assert figures["checkpoint"].count('class="hollow line') == 2 * bad


def test_pages_end_where_there_is_no_more_room(tree, monkeypatch):
    monkeypatch.setattr(study, "MAX_BYTES", 2**20)
    monkeypatch.setattr(study, "embedded", lambda of: "x" * (2**19))
    few = xr.DataTree(children=dict(list(tree.children.items())[:3]))
    page = Page(render(few, num_runs=8, limits=LIMITS))
    assert len(page.data["runs"]) == 1
    assert "The first 1 of 3 runs have a page below: `--num-runs` sets how many" in page.texts["runs"]
    assert "up to 200 and 1 MB together." in page.texts["runs"]


def test_runs_without_numbers_are_named():
    tree = study_tree([{"seed": 1}, {"seed": 2}], num_draws=8, num_chains=2)
    table = json.loads(tree.attrs["study"])
    table["runs"] |= {"seed=3": {"seed": 3}, "seed=4": {"seed": 4}}
    table["failed"] = {"seed=3": "no memory"}
    tree.attrs["study"] = json.dumps(table)
    text = Page(render(tree, num_runs=0)).texts["runs"]
    assert "2 more runs of the study have no numbers: seed=3 (no memory), seed=4 (not begun)." in text
    assert "None of 2 runs has a page below" in text


def test_runs_that_are_no_study_are_listed_by_their_paths():
    both = xr.DataTree.from_dict(
        {"a": synthetic_tree(num_draws=8), "b/c": synthetic_tree(num_draws=8, diverged=[(0, 0)])}
    )
    html = render(both, limits=LIMITS)
    rows = Page(html).cells["run-table"][1:]
    assert [row[0] for row in rows] == ["a", "b/c"]
    assert [row[1] for row in rows][1] == "3"  # reject
    assert 'id="along"' not in html


def test_nothing_of_a_study_becomes_part_of_the_page():
    tree = study_tree(
        [{CORPUS[0]: CORPUS[1]}, {CORPUS[0]: CORPUS[5]}], num_draws=6, num_chains=2, observables={"a": (1, 6)}
    )
    page = Page(render(tree, tokenizer=Hostile(), limits=LIMITS, source=CORPUS[1]))
    assert [tag for tag, _ in page.tags].count("script") == 2
    for tag, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on") or key in ("src", "style")], (tag, attrs)
        assert (attrs.get("href") or "#").startswith("#")


browser = pytest.fixture(scope="module")(start_browser)


@pytest.mark.slow
def test_each_run_can_be_explored(browser, html, tmp_path):
    path = tmp_path / "study.html"
    path.write_text(html, encoding="utf-8")
    emulate(browser)
    browser.get("about:blank")
    browser.get_log("browser")
    requests_of(browser)
    browser.get(path.as_uri())
    tokens = browser.find_elements("css selector", "#passages-1 .t")
    assert len(tokens) == 9
    tokens[4].click()
    assert len(browser.find_elements("css selector", "#details-1 .entry")) == 4
    assert not browser.find_element("css selector", "#details-0").is_displayed()
    browser.find_elements("css selector", "#passages-2 .t")[3].click()
    assert len(browser.find_elements("css selector", "#details-2 .entry")) == 4
    browser.find_element("css selector", "#filter-1").send_keys("part")
    assert browser.find_element("css selector", "#filtered-1").text == "1 of 2"
    assert browser.find_element("css selector", "#filtered-0").text == ""
    head = browser.find_element("css selector", "#run-table thead th:nth-child(2) button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    head.click()
    assert browser.find_element("css selector", "#run-table tbody tr th").text.startswith("checkpoint=100")
    assert violations(browser) == []
    assert browser.get_log("browser") == []
    assert requests_of(browser) == [path.as_uri()]
