"""The viewer in a real browser: hover, click, search, pages, dark, keyboard; two readers at once, and a store that changes."""

from __future__ import annotations

import shutil
import time

import pytest

from devinterp.testing import synthetic_tree
from devinterp_view.server import answers, places
from devinterp_view.text import number
from support.browser import emulate, requests_of, start_browser, violations
from support.hostile_texts import Hostile, hostile_tree
from support.study_trees import study_tree
from support.viewers import served
from support.written_trees import write

pytestmark = pytest.mark.heavy
WORDS = ["in", "def", "\n", " coef", "ficient", " über", " 語", " x"]


#: The candidates of the chosen token are there, and their errors.
ANSWERED = (
    "document.querySelectorAll('#details .entry').length === 10 && !document.querySelector('#details [role=status]')"
)


class Words:
    def decode(self, ids):
        return "".join(WORDS[each % len(WORDS)] for each in ids)


browser = pytest.fixture(scope="module")(start_browser)


@pytest.fixture(scope="module")
def tree():
    tree = synthetic_tree(
        num_restrictions=3,
        num_chains=3,
        num_draws=30,
        num_burnin_steps=6,
        observables={"train": (30, 14), "words": (4, 11)},
    )
    tree["observables/train/token_ids"].values[25, 3:5] = [3, 4]
    return tree


@pytest.fixture(scope="module")
def address(tree, tmp_path_factory):
    path = write(tree, tmp_path_factory.mktemp("viewed") / "run.zarr")
    # Ten sequences on a page.
    with pytest.MonkeyPatch.context() as patch, served(path, tokenizer=Words(), sampling_task="train") as address:
        patch.setattr(places, "PAGE_TOKENS", 140)
        yield address


def wait(browser, condition, *arguments, seconds=20):
    """Wait until a condition in the page holds, and return what it gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = browser.execute_script(f"return {condition}", *arguments)
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(
        f"{condition}: never; the page says {browser.find_element('css selector', 'body').text[:2000]}"
    )


def go(browser, address):
    emulate(browser)
    browser.set_window_size(1280, 900)
    browser.get("about:blank")
    browser.get_log("browser")
    requests_of(browser)
    browser.get(address)


@pytest.fixture
def opened(browser, address):
    """The viewer, opened afresh; afterwards no message may be left, and nothing else may have been asked for."""
    go(browser, address)
    wait(browser, "document.querySelectorAll('.t[class*=\" c\"]').length > 100")
    yield browser
    assert browser.get_log("browser") == []
    assert [each for each in requests_of(browser) if not each.startswith(address)] == []


def css(browser, selector):
    return browser.find_element("css selector", selector)


def token(browser, n):
    return browser.find_elements("css selector", ".t")[n]


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def point(browser, element):
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


def choose(browser, identifier, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))",
        identifier,
        value,
    )


def test_parts_come_after_the_page(opened, tree):
    verdict = tree.slt.diagnose().attrs["verdict"]
    wait(opened, "document.getElementById('verdict').textContent === arguments[0]", verdict)
    assert css(opened, "#headline").text.startswith("paired LLC of full: ")
    assert len(opened.find_elements("css selector", "#traces path.line")) == 3 * 3 * 3
    css(opened, "#restriction-table thead th:nth-child(2) button").click()
    assert css(opened, "#restriction-table thead th:nth-child(2)").get_attribute("aria-sort") == "descending"


def test_pointing_at_a_token_shows_its_numbers(opened, tree):
    point(opened, token(opened, 5))
    llc = tree.slt.token_llc("train").isel(restriction=0, sequence=0, position=4)
    expected = number(float(llc["llc"]), float(llc["llc_se"]))
    assert css(opened, "#tip").text.splitlines()[-1] == f"LLC of the token · full: {expected}"


def test_clicking_a_token_computes_what_moves_with_it_in_all_data(opened, tree):
    token(opened, 8).click()
    wait(opened, ANSWERED)
    best = tree.isel(restriction=[0]).slt.bif(queries={"train": ([0], [7])}, top_k=5, exclude_self=True)
    best = best.isel(batch_1=0, target_position=0)
    entries = opened.find_elements("css selector", "#details .entry")
    for entry, value in zip(entries, best["influences"].values.ravel(), strict=True):
        shown, error = entry.find_element("css selector", "strong").text.split(" ± ")
        assert float(shown) == pytest.approx(float(value), abs=0.6 * 10 ** -len(error.partition(".")[2]))
    links = [each for each in entries if each.tag_name == "a"]
    assert links  # most sequences stand on other pages
    target = links[0].get_attribute("href")
    links[0].click()
    wait(opened, "location.href === arguments[0] && document.activeElement.classList.contains('t')", target)
    sequence, position = target.rpartition("#")[2].split("-")
    tip = css(opened, "#tip").text.splitlines()[1]
    assert tip.endswith(f" {sequence}, token {position}")


@pytest.mark.slow
def test_influences_colour_the_passage_when_they_are_there(opened):
    choose(opened, "layer", "influence")
    assert opened.find_elements("css selector", ".t[class*=' c']") == []
    token(opened, 8).click()
    wait(opened, "document.querySelectorAll('.t[class*=\" c\"]').length === 13")  # the first token is not predicted


@pytest.mark.slow
def test_susceptibilities_are_computed_when_they_are_chosen(opened, tree):
    choose(opened, "layer", "4")
    wait(opened, "document.getElementById('legend-label').textContent === 'susceptibility of the token · part1'")
    labelled = tree.slt.susceptibilities("train", include_sampling_task=True)["labelled"]
    chi = labelled["susceptibility"].isel(restriction=1, sequence=0, position=4).sel(observable="train")
    point(opened, token(opened, 5))
    shown = css(opened, "#tip").text.splitlines()[-1].rpartition(": ")[2].split(" ± ")[0]
    assert float(shown) == pytest.approx(float(chi), rel=0.05)


def test_text_is_found_in_sequences_of_other_pages(opened):
    css(opened, "#everywhere").send_keys("COEFFICIENT\ue007")
    wait(opened, "/^\\d+ places?/.test(document.getElementById('looking').textContent)")
    hits = opened.find_elements("css selector", "#hits a")
    [wanted] = [each for each in hits if each.text.startswith("train 25, token 3")]
    wanted.click()
    wait(opened, "location.hash === '#25-3' && document.activeElement.textContent === ' coef'")
    assert "page=2" in opened.current_url


@pytest.mark.slow
def test_pages(opened):
    assert css(opened, "#page").get_attribute("max") == "3"
    css(opened, "#page-on").click()
    wait(opened, "document.querySelector('.passage h3').textContent === 'train, sequence 10'")
    css(opened, "#page").clear()
    css(opened, "#page").send_keys("3\ue007")
    wait(opened, "document.querySelector('.passage h3').textContent === 'train, sequence 20'")
    assert not css(opened, "#page-on").is_enabled()
    choose(opened, "observable", "1")
    wait(opened, "document.querySelector('.passage h3').textContent === 'words, sequence 0'")


def test_everything_can_be_done_from_the_keyboard(opened):
    for _ in range(40):
        press(opened, "\ue004")  # Tab
        if "t" in (opened.switch_to.active_element.get_attribute("class") or "").split():
            break
    press(opened, "\ue014", "\ue014", "\ue007")
    wait(opened, ANSWERED)
    assert opened.switch_to.active_element == token(opened, 2)
    press(opened, "\ue00c")
    assert not css(opened, "#details").is_displayed()


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_nothing_stands_in_the_way_of_any_reader(opened, scheme):
    emulate(opened, prefers_color_scheme=scheme)
    wait(opened, "document.querySelectorAll('[data-part] .note[role=status]').length === 0")
    css(opened, "#everywhere").send_keys("coef\ue007")
    wait(opened, "document.querySelectorAll('#hits a').length > 0")
    token(opened, 8).click()
    wait(opened, ANSWERED)
    assert violations(opened) == []
    dark = opened.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert dark == {"light": "rgb(255, 255, 255)", "dark": "rgb(27, 29, 33)"}[scheme]


@pytest.mark.slow
def test_the_choice_of_colours_goes_from_page_to_page(opened):
    theme = css(opened, "#theme")
    theme.click()
    theme.click()
    css(opened, "#page-on").click()
    wait(opened, "document.querySelector('.passage h3').textContent === 'train, sequence 10'")
    assert css(opened, "#theme").text == "Colours of the page: dark"
    css(opened, "#theme").click()


@pytest.mark.slow
def test_two_readers_at_once(opened, address):
    first = opened.current_window_handle
    opened.switch_to.new_window("tab")
    opened.get(address)
    second = opened.current_window_handle
    wait(opened, "document.querySelectorAll('.t').length > 100")
    try:
        for handle, n in ((first, 20), (second, 21), (first, 35)):
            opened.switch_to.window(handle)
            token(opened, n).click()
        for handle, n in ((first, 35), (second, 21)):
            opened.switch_to.window(handle)
            wait(opened, ANSWERED)
            assert token(opened, n).get_attribute("aria-pressed") == "true"
    finally:
        opened.switch_to.window(second)
        opened.close()
        opened.switch_to.window(first)


def test_a_query_can_be_stopped(opened, monkeypatch):
    stopped = []

    def slow(*arguments, **options):
        from devinterp_view.job import Stopped, current_job

        try:
            for n in range(400):
                time.sleep(0.05)
                current_job().tell(f"{n} of 400 parts", n / 400)
        except Stopped:
            stopped.append(True)
            raise

    monkeypatch.setattr(answers, "strongest", slow)
    token(opened, 50).click()
    wait(opened, "/of 400 parts/.test(document.getElementById('asking').textContent)")
    css(opened, "#stop").click()
    wait(opened, "/^Stopped/.test(document.getElementById('asking').textContent)")
    end = time.monotonic() + 5
    while not stopped and time.monotonic() < end:
        time.sleep(0.05)
    assert stopped


@pytest.mark.slow
def test_a_study_is_a_list_that_is_filled(browser, tmp_path):
    tree = study_tree([{"checkpoint": n} for n in (1, 10)], num_draws=20, num_chains=2, observables={"a": (2, 6)})
    with served(write(tree, tmp_path / "study.zarr")) as address:
        go(browser, address)
        wait(browser, "document.querySelectorAll('[data-cell=verdict] .badge').length === 2")
        for row, name in zip(browser.find_elements("css selector", "#runs tbody tr"), tree.children, strict=True):
            verdict = tree[name].slt.diagnose().attrs["verdict"]
            assert row.find_element("css selector", ".badge").text == verdict
        assert violations(browser) == []
        css(browser, "#runs thead th:nth-child(2) button").click()
        assert css(browser, "#runs tbody tr th").text == "checkpoint=10"
        css(browser, "#runs tbody a").click()
        wait(browser, "document.querySelectorAll('.t').length === 12")
        assert css(browser, ".crumb").text == "All runs · checkpoint=10"
        assert browser.get_log("browser") == []


def test_a_run_is_followed_and_a_store_that_vanishes_is_said_to_have(browser, tmp_path):
    import zarr

    path = write(synthetic_tree(num_chains=3, num_draws=20, observables={"a": (2, 6)}), tmp_path / "run.zarr")
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    state = group["status/state"][:]
    state[0, 2] = "running"
    group["status/state"][:] = state
    with served(path) as address:
        go(browser, address)
        wait(browser, "/^running/.test(document.getElementById('state').textContent)")
        wait(browser, "document.querySelectorAll('[data-part] .note[role=status]').length === 0")
        state[0, 2] = "finished"
        group["status/state"][:] = state
        wait(browser, "/^finished/.test(document.getElementById('state').textContent)")
        shutil.rmtree(path)
        token(browser, 8).click()
        wait(browser, "/moved or deleted/.test(document.getElementById('trouble').textContent)")
        assert css(browser, "#trouble").is_displayed()
        browser.get_log("browser")
        browser.refresh()
        assert "moved or deleted" in css(browser, "main").text
        assert violations(browser) == []


@pytest.mark.slow
def test_nothing_of_a_store_runs(browser, tmp_path):
    with served(write(hostile_tree(), tmp_path / "hostile.zarr"), tokenizer=Hostile()) as address:
        go(browser, address)
        wait(browser, "document.querySelectorAll('[data-part] .note[role=status]').length === 0", seconds=60)
        for n in (3, 17, 40):
            token(browser, n).click()
            wait(browser, "document.querySelectorAll('#details .entry').length > 1")
        css(browser, "#everywhere").send_keys("title\ue007")
        wait(browser, "document.querySelectorAll('#hits a').length > 1")
        assert browser.title != "run"
        bad = "img, iframe, base, link, object, b script, svg script"
        assert browser.execute_script(f"return document.querySelectorAll('{bad}').length") == 0
        assert browser.get_log("browser") == []
        assert [each for each in requests_of(browser) if not each.startswith(address)] == []
