"""A report in a real browser: from a file, with no network, by mouse, by keyboard, in the dark and on paper."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from devinterp.testing import synthetic_tree
from devinterp_view import palette
from devinterp_view.budget import Limits
from devinterp_view.report import render, report
from devinterp_view.text import number
from support.browser import emulate, requests_of, start_browser, violations
from support.hostile_texts import CORPUS, Hostile, hostile_tree
from support.report_page import Page, floats, integers

pytestmark = pytest.mark.heavy
LENGTHS = (14, 14, 11)
WORDS = ["in", "def", "\n", " coef", "ficient", " über", " 語", " x"]


class Words:
    def decode(self, ids):
        return "".join(WORDS[each % len(WORDS)] for each in ids)


browser = pytest.fixture(scope="module")(start_browser)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = synthetic_tree(
        num_restrictions=3,
        num_chains=3,
        num_draws=30,
        num_burnin_steps=6,
        observables={"train": (3, 14), "code": (1, 11)},
    )
    ids = tree["observables/train/token_ids"].values
    ids[0, :6] = [0, 3, 4, 2, 3, 4]  # "in coefficient⏎ coefficient"
    options = {"tokenizer": Words(), "sampling_task": "train", "limits": Limits(passages=2, top_k=2)}
    return report(tree, tmp_path_factory.mktemp("report") / "report.html", source="synthetic", **options)


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def opened(browser, path):
    """The report, opened afresh, with no messages left; afterwards there must be none either."""
    emulate(browser)
    browser.set_window_size(1280, 900)
    browser.get("about:blank")
    browser.get_log("browser")
    requests_of(browser)
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    assert [each for each in requests_of(browser) if each != path.as_uri()] == []


def css(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return [each.text for each in browser.find_elements("css selector", selector)]


def token(browser, n):
    return browser.find_elements("css selector", ".t")[n]


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def point(browser, element):
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


def choose_layer(browser, value):
    browser.execute_script(
        "const e = document.getElementById('layer'); e.value = arguments[0]; e.dispatchEvent(new Event('change'))",
        value,
    )


def colours_of(browser):
    classes = browser.execute_script("return [...document.querySelectorAll('.t')].map((e) => e.className)")
    return [int(each[3:]) if each != "t" else -1 for each in classes]


def test_the_page_stands_before_any_script_runs(opened, page):
    assert opened.title == page.texts.get("title", opened.title) == "sampling run: 3 weight restrictions"
    assert len(opened.find_elements("css selector", ".t")) == sum(LENGTHS)
    assert len(opened.find_elements("css selector", "#traces path.line")) == 3 * 3 * 3
    assert css(opened, "#headline").text.startswith("paired LLC of full: ")


def test_a_script_that_is_not_its_own_does_not_run(browser, path):
    browser.get(path.as_uri())
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 2\">');"
    )
    assert browser.title == "sampling run: 3 weight restrictions"
    refused = [each["message"] for each in browser.get_log("browser")]
    assert len([each for each in refused if "Content Security Policy" in each]) >= 2


def test_pointing_at_a_token_shows_its_numbers(opened, page):
    layer = page.data["layers"][0]
    values, sizes = floats(layer["values"]), floats(layer["errors"])
    for n in (5, 20):
        point(opened, token(opened, n))
        tip = css(opened, "#tip")
        assert tip.is_displayed()
        assert tip.text.splitlines()[-1] == f"LLC of the token · full: {number(float(values[n]), float(sizes[n]))}"
    point(opened, css(opened, "h1"))
    assert not css(opened, "#tip").is_displayed()


@pytest.mark.parametrize("layer", range(6))
def test_tokens_have_the_colours_of_their_numbers(opened, page, layer):
    choose_layer(opened, str(layer))
    of = page.data["layers"][layer]
    values = floats(of["values"])
    assert colours_of(opened) == palette.bins(values.astype(float), of["limit"]).tolist()
    assert css(opened, "#legend-label").text == of["label"]
    assert css(opened, "#legend-high").text == number(of["limit"])


def test_a_chosen_token_shows_what_moves_with_it(opened, page):
    token(opened, 8).click()
    details = css(opened, "#details")
    assert details.is_displayed()
    influence = page.data["influence"]
    shape = (sum(LENGTHS), 2, 2)
    values, sizes, row, position = (
        unpack(influence[key]).reshape(shape)[8]
        for key, unpack in (("values", floats), ("errors", floats), ("row", integers), ("position", integers))
    )
    buttons = details.find_elements("css selector", "li button")
    assert len(buttons) == 4
    for button, index in zip(buttons, np.ndindex(2, 2), strict=True):
        of_row = influence["rows"][row[index]]
        first = f"{number(float(values[index]), float(sizes[index]))} {of_row['label']}, token {position[index]}"
        assert button.text.splitlines()[0] == first
        piece = influence["vocabulary"][of_row["tokens"][position[index]]]
        shown = opened.execute_script("return arguments[0].querySelector('b').textContent", button)
        assert shown == piece.replace("\n", "")
    assert len(details.find_elements("css selector", "tr")) == 6
    token(opened, 8).click()
    assert not details.is_displayed()


def test_influences_of_the_chosen_token_colour_its_passage(opened, page):
    choose_layer(opened, "influence")
    assert set(colours_of(opened)) == {-1}
    token(opened, 8).click()
    block = floats(page.data["influence"]["blocks"][0]).reshape(14, 14)[8].astype(float)
    sizes = np.sort(np.abs(np.delete(block, 8))[np.isfinite(np.delete(block, 8))])
    limit = sizes[int(0.98 * (len(sizes) - 1))]
    expected = palette.bins(block, limit).tolist()
    assert colours_of(opened) == expected + [-1] * (sum(LENGTHS) - 14)


def test_tables_are_sorted_by_number(opened):
    for column in range(1, 6):
        css(opened, f"#restriction-table thead th:nth-child({column + 1}) button").click()
        head = css(opened, f"#restriction-table thead th:nth-child({column + 1})")
        assert head.get_attribute("aria-sort") == "descending"
        cells = opened.find_elements("css selector", f"#restriction-table tbody tr td:nth-child({column + 1})")
        values = [float(each.get_attribute("data-value")) for each in cells]
        assert values == sorted(values, reverse=True)
    first = css(opened, "#restriction-table thead th button")
    first.click()
    assert texts(opened, "#restriction-table tbody th") == ["full", "part1", "part2"]
    first.send_keys("\ue007")  # Enter
    assert texts(opened, "#restriction-table tbody th") == ["part2", "part1", "full"]
    assert opened.find_elements("css selector", "[aria-sort=ascending]") == []
    css(opened, "#filter").send_keys("PART")
    assert [each for each in texts(opened, "#restriction-table tbody th") if each] == ["part2", "part1"]
    assert css(opened, "#filtered").text == "2 of 3"


def test_text_is_found_across_tokens(opened):
    press(opened, "/")
    press(opened, "COEFFICIENT")
    hits = opened.execute_script("return [...document.querySelectorAll('[data-hit]')].map((e) => e.textContent)")
    assert hits[:4] == [" coef", "ficient", " coef", "ficient"]
    assert css(opened, "#places").text.endswith(f"of {len(hits) // 2} places")
    press(opened, "\ue007")
    assert css(opened, "#places").text.startswith("1 of")
    assert css(opened, "#tip").text.startswith("coef")
    css(opened, "#search").clear()
    css(opened, "#search").send_keys("nowhere")
    assert css(opened, "#places").text == "not there"
    assert opened.find_elements("css selector", "[data-hit]") == []


def test_everything_can_be_done_from_the_keyboard(opened):
    for _ in range(80):
        press(opened, "\ue004")  # Tab
        if "t" in (opened.switch_to.active_element.get_attribute("class") or "").split():
            break
    active = opened.switch_to.active_element
    assert active == token(opened, 0)
    for key, n in (
        ("\ue014", 1),
        ("\ue014", 2),
        ("\ue012", 1),
        ("\ue010", 13),
        ("\ue014", 14),
        ("\ue011", 14),
        ("\ue012", 13),
    ):
        press(opened, key)
        assert opened.switch_to.active_element == token(opened, n), (key, n)
        assert css(opened, "#tip").is_displayed()
    press(opened, "\ue013")  # up: a line above
    assert opened.switch_to.active_element.location["y"] < token(opened, 13).location["y"]
    press(opened, "\ue007")
    assert css(opened, "#details").is_displayed()
    assert opened.switch_to.active_element.get_attribute("aria-pressed") == "true"
    press(opened, "\ue004")
    assert opened.execute_script("return document.getElementById('details').contains(document.activeElement)")
    press(opened, "\ue00c")  # Escape
    assert not css(opened, "#details").is_displayed()


def background(browser):
    return browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")


def test_light_and_dark(opened):
    assert background(opened) == "rgb(255, 255, 255)"
    emulate(opened, prefers_color_scheme="dark")
    assert background(opened) == "rgb(27, 29, 33)"
    theme = css(opened, "#theme")
    theme.click()
    assert (theme.text, background(opened)) == ("Colours of the page: light", "rgb(255, 255, 255)")
    theme.click()
    emulate(opened)
    assert (theme.text, background(opened)) == ("Colours of the page: dark", "rgb(27, 29, 33)")
    colour = opened.execute_script("return getComputedStyle(document.querySelector('.c20')).backgroundColor")
    assert colour == "rgb(168, 67, 32)"  # the last of the dark palette


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_any_reader(opened, scheme):
    emulate(opened, prefers_color_scheme=scheme)
    token(opened, 8).click()
    assert violations(opened) == []


def test_a_narrow_screen_does_not_scroll_sideways(opened):
    opened.set_window_size(520, 900)
    token(opened, 8).click()
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_on_paper_there_are_no_controls(opened):
    token(opened, 8).click()
    emulate(opened, media="print", prefers_color_scheme="dark")
    for each in ("nav", "#controls", "#theme", "#details", "#hint"):
        assert not css(opened, each).is_displayed(), each
    assert css(opened, ".t").is_displayed()
    assert background(opened) == "rgb(255, 255, 255)"
    assert base64.b64decode(opened.print_page()).startswith(b"%PDF")


def test_nothing_of_a_store_runs(browser, tmp_path):
    path = tmp_path / "hostile.html"
    limits = Limits(passages=1)
    path.write_text(render(hostile_tree(), tokenizer=Hostile(), source=CORPUS[1], limits=limits), encoding="utf-8")
    emulate(browser)
    requests_of(browser)
    browser.get_log("browser")
    browser.get(path.as_uri())
    for n in range(len(browser.find_elements("css selector", ".t"))):
        browser.execute_script(
            "const e = document.querySelectorAll('.t')[arguments[0]];"
            "e.dispatchEvent(new PointerEvent('pointerover', {bubbles: true})); e.click()", n
        )  # fmt: skip
    assert css(browser, "#details").text
    assert browser.title != "run"
    assert browser.execute_script("return document.scripts.length") == 2
    assert (
        browser.execute_script(
            "return document.querySelectorAll('img, iframe, base, link, b script, svg script').length"
        )
        == 0
    )
    assert browser.get_log("browser") == []
    assert requests_of(browser) == [path.as_uri()]
