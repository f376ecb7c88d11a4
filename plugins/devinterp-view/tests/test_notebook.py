"""The explorer in a notebook: what its model holds, what its kernel answers, and how it looks in a browser."""

from __future__ import annotations

import builtins
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback

from devinterp.errors import InvalidInputError
from devinterp.testing import synthetic_tree
from devinterp_view.explorer import view
from devinterp_view.html import read
from devinterp_view.job import Job, Stopped, at_work, scheduler_here
from support.browser import start_browser, violations
from support.hostile_texts import Hostile, hostile_tree
from support.report_page import Page, floats

pytest.importorskip("anywidget", reason="anywidget is not installed")

OBSERVABLES = {"code": (4, 11), "train": (80, 14)}


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return synthetic_tree(num_restrictions=2, num_chains=3, num_draws=20, observables=OBSERVABLES)


@pytest.fixture(scope="module")
def widget(tree):
    return view(tree, sampling_task="train", height=600)


@pytest.fixture
def sent(widget, monkeypatch):
    """What the kernel sends to the page."""
    messages = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: messages.append(content))
    return messages


def test_the_model_holds_the_page_of_a_report(widget, tree):
    state = widget.get_state()
    assert state["height"] == 600
    assert "export default" in state["_esm"]
    page = Page(state["html"])
    assert {each["kind"] for each in page.data["layers"]} == {"llc", "susceptibility"}
    assert page.texts["headline"].startswith("paired LLC of full: ")
    policy = next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    assert len(state["html"]) < 2**20


def test_the_kernel_says_that_it_is_there(widget, sent):
    widget._handle_custom_msg({"kind": "hello"}, [])
    assert sent == [{"kind": "alive"}]


def test_the_kernel_looks_in_all_data(widget, tree):
    reply = widget.answer({"id": 3, "observable": 1, "sequence": 2, "token": 6})
    assert reply["id"] == 3
    json.dumps(reply, allow_nan=False)
    run = tree.isel(restriction=[0])
    expected = run.slt.bif(queries={"train": ([2], [5])}, top_k=5, exclude_self=True).isel(batch_1=0, target_position=0)
    for sign in (0, 1):
        values = [each["value"] for each in reply["answer"]["sides"][sign]]
        np.testing.assert_allclose(values, expected["influences"].isel(sign=sign).values, rtol=1e-6)
    assert len(floats(reply["answer"]["value"])) == 14
    answers = [widget.answer({"id": 0, "observable": 1, "sequence": 2, "token": n})["answer"] for n in range(1, 14)]
    rows = [each["sequence"] for answer in answers for side in answer["sides"] for each in side]
    assert max(rows) >= 64  # beyond those that a file looks in


@pytest.mark.parametrize("token", [99, -1, None, "1", 1.5, [1]])
def test_what_cannot_be_answered_is_said(widget, token):
    reply = widget.answer({"id": 1, "observable": 0, "sequence": 0, "token": token})
    assert "answer" not in reply
    assert "must be below" in reply["error"] or "three whole numbers" in reply["error"]


@pytest.mark.heavy
def test_it_tells_how_far_it_is_and_first_the_answer_without_errors(tree, monkeypatch):
    lazy = view(tree.chunk(), sampling_task="train")
    messages = []
    monkeypatch.setattr(lazy, "send", lambda content, buffers=None: messages.append(content))
    lazy._handle_custom_msg({"kind": "influence", "id": 7, "observable": 0, "sequence": 1, "token": 3}, [])
    lazy._thread.shutdown(wait=True)
    kinds = [each["kind"] for each in messages]
    assert kinds[0] == "progress"
    assert [kind for kind in kinds if kind != "progress"] == ["part", "answer"]
    assert {each["id"] for each in messages} == {7}
    part, whole = (each["answer"] for each in messages if each["kind"] != "progress")
    assert part["sides"][0][0]["error"] is None
    assert whole["sides"][0][0]["error"] > 0
    assert lazy._jobs == {}


@pytest.mark.heavy
def test_what_nobody_waits_for_ends(tree, monkeypatch):
    lazy = view(tree.chunk(), sampling_task="train")
    messages, at_work = [], threading.Event()

    def send(content, buffers=None):
        messages.append(content)
        if not at_work.is_set():
            at_work.set()
            lazy._handle_custom_msg({"kind": "stop", "id": 1}, [])

    monkeypatch.setattr(lazy, "send", send)
    question = {"kind": "influence", "observable": 0, "sequence": 1, "token": 3}
    lazy._handle_custom_msg({**question, "id": 1}, [])
    lazy._handle_custom_msg({"kind": "stop", "id": 2}, [])
    lazy._handle_custom_msg({**question, "id": 3}, [])
    lazy._thread.shutdown(wait=True)
    assert [each["kind"] for each in messages if each["id"] == 1] == ["progress"]
    assert [each["id"] for each in messages if each["kind"] == "answer"] == [3]


def test_what_other_threads_compute_meanwhile_is_left_alone(tree):
    job = Job()
    job.stop()
    values = tree.chunk()["trace/loss"].data
    with at_work(job):
        with pytest.raises(Stopped):
            values.sum().compute(scheduler=scheduler_here())
        with ThreadPoolExecutor(1) as other:
            assert np.isfinite(other.submit(lambda: values.sum().compute(scheduler=scheduler_here())).result())
        # A scheduler that is set, such as a cluster's, stays.
        with dask.config.set(scheduler="sync"):
            assert scheduler_here() is None
    assert scheduler_here() is None


@pytest.mark.heavy
def test_it_tells_how_far_it_is_while_a_cell_computes(tree, monkeypatch):
    lazy = view(tree.chunk(), sampling_task="train")
    messages, begun, answered = [], threading.Event(), threading.Event()
    monkeypatch.setattr(lazy, "send", lambda content, buffers=None: messages.append(content))
    monkeypatch.setattr("devinterp_view.notebook._TELL", 0.0)

    def cell():
        begun.set()
        answered.wait()

    with ThreadPoolExecutor(1) as other:
        computed = other.submit(dask.delayed(cell)().compute, scheduler="threads")
        begun.wait()
        try:
            lazy._handle_custom_msg({"kind": "influence", "id": 1, "observable": 0, "sequence": 1, "token": 3}, [])
            lazy._thread.shutdown(wait=True)
        finally:
            answered.set()
        computed.result()
    assert messages[-1]["kind"] == "answer"
    assert any("parts" in each["text"] for each in messages if each["kind"] == "progress")
    assert Callback.active == set()


def test_it_is_a_method_of_the_tree_and_no_second_command(tree):
    from devinterp import plugins

    spec = plugins.analyses()["view"]
    assert not spec.has_command
    assert plugins.commands()["view"].function == "devinterp_view.view:view"
    assert tree.slt.view(passages={"code": [1]}).html.count('class="passage"') == 1
    with pytest.raises(InvalidInputError, match=r"`height` \(=5\)"):
        tree.slt.view(height=5)
    both = xr.DataTree.from_dict({"a": tree.copy(), "b": tree.copy()})
    with pytest.raises(InvalidInputError, match=r"`view` shows one sampling run; there are 2 \('a', 'b'\)"):
        both.slt.view()


def test_without_anywidget_it_says_what_to_do(tree, monkeypatch):
    original = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "anywidget":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "devinterp_view.notebook", raising=False)
    with pytest.raises(InvalidInputError, match="needs the package anywidget: `pip install anywidget`"):
        view(tree)


browser = pytest.fixture(scope="module")(start_browser)

#: A page as Jupyter or exported HTML is: it imports the module of the widget and gives it a model.
NOTEBOOK = """<!doctype html><html lang="en"><title>notebook</title><main><h1>A notebook</h1><div id="cell"></div></main>
<script type="module">
const state = %s, listeners = [];
window.messages = [];
window.reply = (message) => listeners.forEach((each) => each(message));
const model = {
  get: (name) => state[name],
  send: (message) => { if (%s) window.messages.push(message); else throw new Error("no kernel"); },
  on: (name, listener) => { if (name === "msg:custom") listeners.push(listener); },
  off: (name, listener) => listeners.splice(listeners.indexOf(listener), 1),
};
const { default: { render } } = await import(URL.createObjectURL(new Blob([%s], { type: "text/javascript" })));
window.clean = render({ model, el: document.getElementById("cell") });
</script></html>"""


def notebook(tmp_path, widget, *, has_kernel):
    def script(value):
        return json.dumps(value).replace("<", "\\u003c")

    path = tmp_path / "notebook.html"
    state = {"html": widget.html, "height": 600}
    path.write_text(NOTEBOOK % (script(state), json.dumps(has_kernel), script(read("explorer.mjs"))), encoding="utf-8")
    return path


def wait(browser, condition, seconds=20):
    end = time.monotonic() + seconds
    while not (value := browser.execute_script(f"return {condition}")):
        assert time.monotonic() < end, condition
        time.sleep(0.05)
    return value


def in_page(browser):
    wait(browser, "document.querySelector('iframe') !== null")
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    wait(browser, "document.querySelectorAll('.t[role=button]').length > 20")


def open_notebook(browser, path):
    browser.switch_to.default_content()
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(path.as_uri())
    in_page(browser)


@pytest.mark.heavy
def test_in_a_live_notebook_the_kernel_is_asked(browser, tmp_path, widget, sent):
    open_notebook(browser, notebook(tmp_path, widget, has_kernel=True))
    browser.find_elements("css selector", ".t")[5].click()
    assert len(browser.find_elements("css selector", "#details .entry")) == 10
    browser.switch_to.default_content()
    [hello] = wait(browser, "window.messages.length && window.messages")
    widget._handle_custom_msg(hello, [])
    browser.execute_script("window.reply(arguments[0])", sent[0])
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    browser.find_elements("css selector", ".t")[6].click()
    wait(browser, "document.getElementById('more') !== null")
    browser.find_element("css selector", "#more").click()
    browser.switch_to.default_content()
    question = wait(browser, "window.messages[1]")
    assert {key: question[key] for key in ("kind", "observable", "sequence", "token")} == {
        "kind": "influence",
        "observable": 0,
        "sequence": 0,
        "token": 6,
    }
    progress = {"kind": "progress", "id": question["id"], "text": "3 of 8 parts", "share": 0.375}
    browser.execute_script("window.reply(arguments[0])", progress)
    in_page(browser)
    wait(browser, "document.querySelector('#details progress')?.value === 0.375")
    browser.switch_to.default_content()
    reply = widget.answer(question, lambda part: browser.execute_script(
        "window.reply(arguments[0])", {"kind": "part", "id": question["id"], "answer": part}
    ))  # fmt: skip
    in_page(browser)
    wait(browser, "document.querySelector('#details').textContent.includes('Errors are computed')")
    browser.switch_to.default_content()
    browser.execute_script("window.reply(arguments[0])", reply)
    in_page(browser)
    wait(browser, "!document.querySelector('#details').textContent.includes('Errors are computed')")
    assert browser.find_elements("css selector", "#more") == []
    shown = [each.text for each in browser.find_elements("css selector", "#details .entry")]
    expected = [each for side in reply["answer"]["sides"] for each in side]
    for text, each in zip(shown, expected, strict=True):
        assert f"{each['label']}, token {each['position']}" in text.splitlines()[0]
    assert violations(browser) == []
    assert browser.get_log("browser") == []


@pytest.mark.heavy
def test_in_a_live_notebook_a_question_can_be_taken_back(browser, tmp_path, widget):
    open_notebook(browser, notebook(tmp_path, widget, has_kernel=True))
    browser.switch_to.default_content()
    browser.execute_script("window.reply({ kind: 'alive' })")
    in_page(browser)
    browser.find_elements("css selector", ".t")[6].click()
    wait(browser, "document.getElementById('more') !== null")
    browser.find_element("css selector", "#more").click()
    browser.switch_to.default_content()
    question = wait(browser, "window.messages[1]")
    in_page(browser)
    browser.find_element("css selector", "#stop").click()
    wait(browser, "document.querySelector('#details').textContent.includes('Stopped')")
    browser.switch_to.default_content()
    assert wait(browser, "window.messages[2]") == {"kind": "stop", "id": question["id"]}
    assert browser.get_log("browser") == []


@pytest.mark.heavy
@pytest.mark.slow
def test_in_an_exported_notebook_what_fits_is_there(browser, tmp_path, widget):
    open_notebook(browser, notebook(tmp_path, widget, has_kernel=False))
    browser.find_elements("css selector", ".t")[5].click()
    assert len(browser.find_elements("css selector", "#details .entry")) == 10
    assert browser.find_elements("css selector", "#more") == []
    assert browser.get_log("browser") == []
    browser.switch_to.default_content()
    browser.execute_script("window.clean()")


@pytest.mark.heavy
@pytest.mark.slow
def test_nothing_of_a_store_reaches_the_notebook(browser, tmp_path):
    hostile = view(hostile_tree(), tokenizer=Hostile())
    open_notebook(browser, notebook(tmp_path, hostile, has_kernel=True))
    browser.find_elements("css selector", ".t")[5].click()
    with pytest.raises(Exception, match="(?i)cross-origin|sandbox|SecurityError|Blocked"):
        browser.execute_script("return parent.document.title")
    browser.switch_to.default_content()
    assert browser.title == "notebook"
    assert [each["kind"] for each in browser.execute_script("return window.messages")] == ["hello"]
