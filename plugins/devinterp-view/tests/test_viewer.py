"""The viewer gives the numbers of the analyses, to whoever has its address, and to nobody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.llc import token_llc
from devinterp.testing import synthetic_tree
from devinterp_view.server import opened
from devinterp_view.server.app import make_app
from devinterp_view.server.opened import Library, StoreGoneError
from devinterp_view.server.viewer import Viewer
from support.hostile_texts import CORPUS, Hostile, hostile_tree
from support.report_page import Page, floats
from support.study_trees import study_tree
from support.viewers import TOKEN, client_of, last, lines, result
from support.written_trees import write

#: In the order of their numbers: alphabetical where a store does not say otherwise.
OBSERVABLES = {"code": (4, 11), "train": (5, 14)}
STREAMS = ("part", "layer", "influence", "search", "brief")
PATHS = ("", "run", "state", "states", *STREAMS)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return synthetic_tree(num_restrictions=3, num_chains=3, num_draws=20, num_burnin_steps=6, observables=OBSERVABLES)


@pytest.fixture(scope="module")
def store(tree, tmp_path_factory) -> Path:
    return write(tree, tmp_path_factory.mktemp("viewed") / "run.zarr")


@pytest.fixture(scope="module")
def client(store):
    with client_of(store, sampling_task="train") as client:
        yield client


def get(client, path, **query):
    return client.get(f"/{TOKEN}/{path}", params={"run": ".", **query})


# Numbers.


def test_a_layer_is_that_of_the_analysis(client, tree):
    for observable, restriction in ((0, 0), (1, 2)):
        made = result(client, "layer", observable=observable, page=0, kind="llc", restriction=restriction)
        name = list(OBSERVABLES)[observable]
        expected = token_llc(tree, name).isel(restriction=restriction)
        shape = (OBSERVABLES[name][0], OBSERVABLES[name][1])
        values, sizes = (floats(made[key]).reshape(shape) for key in ("values", "errors"))
        assert np.isnan(values[:, 0]).all()
        np.testing.assert_allclose(values[:, 1:], expected["llc"].values, rtol=1e-6)
        np.testing.assert_allclose(sizes[:, 1:], expected["llc_se"].values, rtol=1e-6)


def test_susceptibilities_are_those_of_the_analysis(client, tree):
    labelled = tree.slt.susceptibilities("train", include_sampling_task=True)["labelled"].to_dataset()
    made = result(client, "layer", observable=0, page=0, kind="susceptibility", restriction=1)
    expected = labelled.isel(restriction=1).sel(observable="code").isel(sequence=slice(0, 4))
    values = floats(made["values"]).reshape(4, 11)[:, 1:]
    np.testing.assert_allclose(values, expected["susceptibility"].values[:, :10], rtol=1e-5, atol=1e-9)


def test_the_strongest_candidates_are_those_of_bif_in_all_data(client, tree):
    run = tree.isel(restriction=[0])
    token = 7
    made = result(client, "influence", observable=0, sequence=2, token=token)
    expected = run.slt.bif(queries={"code": ([2], [token - 1])}, top_k=5, exclude_self=True).isel(batch_1=0)
    names = expected["observable_2"].values
    for sign in (0, 1):
        ours = made["sides"][sign]
        one = expected.isel(sign=sign, target_position=0)
        np.testing.assert_allclose([each["value"] for each in ours], one["influences"].values, rtol=1e-6)
        assert [each["position"] for each in ours] == one["candidate_position"].values.tolist()
        assert [each["sequence"] for each in ours] == one["candidate_sequence"].values.tolist()
        assert [list(OBSERVABLES)[each["observable"]] for each in ours] == names[one["candidate_batch"].values].tolist()
    best = made["sides"][0][0]
    side = {list(OBSERVABLES)[best["observable"]]: ([best["sequence"]], [best["position"] - 1])}
    pair = run.slt.bif(queries={"code": ([2], [token - 1])}, candidates=side, standard_errors=True)
    assert best["error"] == pytest.approx(pair["influences_se"].item(), rel=1e-5)


def test_influences_on_the_own_passage_are_those_of_bif(client, tree):
    made = result(client, "influence", observable=1, sequence=3, token=5, restriction=1)
    side = {"train": [3]}
    whole = tree.isel(restriction=[1]).slt.bif(queries=side, candidates=side, standard_errors=True)
    np.testing.assert_allclose(floats(made["value"])[1:], whole["influences"].values[0, 0, 4], rtol=1e-6)
    np.testing.assert_allclose(floats(made["error"])[1:], whole["influences_se"].values[0, 0, 4], rtol=1e-4, atol=1e-6)


def test_a_token_that_nothing_predicts_has_no_influences(client):
    made = result(client, "influence", observable=0, sequence=0, token=0)
    assert made["sides"] == [[], []]
    assert np.isnan(floats(made["value"])).all()
    assert "nothing moves with it" in made["notes"][0]


def test_the_second_answer_is_the_first_without_computing(store, monkeypatch):
    from devinterp_view.server import answers

    with client_of(store) as client:
        first = lines(client, "influence", observable=0, sequence=1, token=3)
        monkeypatch.setattr(answers, "within", lambda *_, **__: pytest.fail("computed again"))
        monkeypatch.setattr(answers, "strongest", lambda *_: pytest.fail("computed again"))
        again = lines(client, "influence", observable=0, sequence=1, token=3)
        assert again == first[-1:]
        monkeypatch.undo()
        # Of another token of the passage the candidates are known too: only its errors are computed.
        monkeypatch.setattr(answers, "strongest", lambda *_: pytest.fail("looked for again"))
        assert "sides" in result(client, "influence", observable=0, sequence=1, token=4)


def test_parts_are_the_sections_of_a_report(client, tree):
    summary = result(client, "part", name="summary")
    diagnosis = tree.slt.diagnose()
    assert summary["verdict"] == diagnosis.attrs["verdict"]
    for code in diagnosis["code"].values:
        assert code in summary["html"]
    tables = result(client, "part", name="coefficients")
    mean = float(tree.slt.llc()["paired_llc_mean"].isel(restriction=0))
    assert f'data-value="{mean!r}"' in tables["html"]
    assert "restriction-table" in tables["html"]
    assert tables["headline"].startswith("paired LLC of full: ")
    assert result(client, "part", name="traces")["html"].count("<svg viewBox") == 9
    assert result(client, "brief")["value"] == pytest.approx(mean)


def test_text_is_found_in_all_sequences(tmp_path):
    tree = synthetic_tree(num_draws=8, num_chains=2, observables={"a": (40, 9), "b": (30, 7)})
    for name in ("a", "b"):
        tree[f"observables/{name}/token_ids"].values[:] = 0
    tree["observables/a/token_ids"].values[31, 4:6] = [1, 2]
    tree["observables/b/token_ids"].values[29, 5:7] = [1, 2]

    class Words:
        def decode(self, ids):
            return "".join([" x", " coef", "ficient"][each] for each in ids)

    with client_of(write(tree, tmp_path / "run.zarr"), tokenizer=Words()) as client:
        answer = result(client, "search", text="Coefficient")
        places = [(each["observable"], each["sequence"], each["position"]) for each in answer["hits"]]
        assert places == [(0, 31, 4), (1, 29, 5)]
        assert answer["hits"][0]["word"] == " coef"
        assert answer["hits"][0]["before"] == " x x x x"
        assert get(client, answer["hits"][0]["href"].partition("?")[0], observable=0, page=0).status_code == 200
        assert result(client, "search", text="nowhere") == {"places": 0, "note": "", "hits": []}
        many = result(client, "search", text="x")
        assert many["places"] == len(many["hits"]) == 200
        assert "The first 200 places" in many["note"]
        assert "1 to 1,000 characters" in last(client, "search", text="")["error"]


# Pages.


def test_only_what_is_shown_is_read(tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    reads, original = [], LocalStore.get

    async def get_counted(self, key, *arguments, **options):
        reads.append(key)
        return await original(self, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", get_counted)
    tree = synthetic_tree(num_draws=8, num_chains=2, observables={"a": (512, 9)})
    encoding = {"/observables/a": {"loss": {"chunks": (1, 1, 8, 16, 8)}, "token_ids": {"chunks": (16, 9)}}}
    path = tmp_path / "run.zarr"
    tree.to_zarr(path, encoding=encoding)
    with client_of(path) as client:
        reads.clear()
        page = get(client, "run", observable=0, page=1)
        assert page.status_code == 200
        ids = {key for key in reads if "token_ids/c/" in key}
        assert ids == {f"observables/a/token_ids/c/{n}/0" for n in range(14, 29)}  # sequences 227 to 453
        assert not [key for key in reads if "/loss/c/" in key]
        result(client, "layer", observable=0, page=1, kind="llc", restriction=0)
        losses = {key for key in reads if key.startswith("observables/a/loss/c/")}
        assert {int(key.split("/")[-2]) for key in losses} == set(range(14, 29))


@pytest.mark.slow
def test_pages_run_through_all_sequences_once(tmp_path):
    tree = synthetic_tree(num_draws=4, observables={"a": (500, 9)})
    with client_of(write(tree, tmp_path / "run.zarr")) as client:
        seen = []
        for number in range(3):
            data = Page(get(client, "run", observable=0, page=number).text).data
            assert data["server"]["num_pages"] == 3
            seen += [(each["sequence"], each["start"], each["length"]) for each in data["passages"]]
        assert seen == [(n, 0, 9) for n in range(500)]
        assert get(client, "run", observable=0, page=3).status_code == 400


def test_a_study_is_a_list_of_runs(tmp_path):
    labels = [{"checkpoint": 1, "lr": 0.1}, {"checkpoint": 10, "lr": 0.2}]
    tree = study_tree(labels, num_draws=12, num_chains=2, observables={"a": (2, 6)})
    table = json.loads(tree.attrs["study"])
    table["runs"]["checkpoint=100,lr=0.1"] = {"checkpoint": 100, "lr": 0.1}
    table["failed"]["checkpoint=100,lr=0.2"] = "no memory"
    table["runs"]["checkpoint=100,lr=0.2"] = {"checkpoint": 100, "lr": 0.2}
    tree.attrs["study"] = json.dumps(table)
    with client_of(write(tree, tmp_path / "study.zarr")) as client:
        html = client.get(f"/{TOKEN}/").text
        page = Page(html)
        rows = page.cells["runs"][1:]
        assert [row[0] for row in rows] == [*tree.children, "checkpoint=100,lr=0.1", "checkpoint=100,lr=0.2"]
        assert [row[1:4] for row in rows[:2]] == [["1.0", "0.1", "finished"], ["10.0", "0.2", "finished"]]
        assert [row[3] for row in rows[2:]] == ["not begun", "failed"]
        assert "no memory" in html
        llc = tree.slt.llc()["paired_llc_mean"].sel(checkpoint=10, lr=0.2)
        assert result(client, "brief", run="checkpoint=10,lr=0.2")["value"] == pytest.approx(float(llc))
        assert "All runs" in get(client, "run", run="checkpoint=10,lr=0.2").text
        assert get(client, "run", run="checkpoint=2").status_code == 400


# Who may ask.


@pytest.mark.parametrize("path", PATHS)
def test_every_address_needs_the_token(client, path):
    for prefix in ("", "/wrong", f"/{TOKEN}x", f"/{TOKEN[:-1]}", f"/x/{TOKEN}", "/%00", "/é"):
        answer = client.get(f"{prefix}/{path}", params={"run": "."}, follow_redirects=False)
        assert answer.status_code == 403
        assert "token" in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_only_names_of_this_machine_are_answered(client, path):
    for host in (
        "example.com",
        "example.com:8765",
        "127.0.0.1.example.com",
        "127.0.0.1@example.com",
        "127.0.0.1:x",
        "",
    ):
        answer = client.get(f"/{TOKEN}/{path}", params={"run": "."}, headers={"Host": host}, follow_redirects=False)
        assert answer.status_code == 421
    assert client.get(f"/{TOKEN}/states", headers={"Host": "localhost:8765"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(client, method):
    for path in PATHS:
        assert client.request(method, f"/{TOKEN}/{path}").status_code == 405


HOSTILE_PATHS = (
    "..", "../run.zarr", "../../etc/passwd", "/etc/passwd", "./..", "trace", "observables/train", "run.zarr/..", "\\..\\x",
    "a\0b", "file:///etc/passwd", "s3://bucket/run", "http://example.invalid/", "%2e%2e%2f", "", " ",
    *(text[:5000] for text in CORPUS if text != "\ud800"),
)  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_no_path_leads_out_of_the_store(client, path, monkeypatch):

    monkeypatch.setattr(opened, "open_store", lambda *_, **__: pytest.fail("something was opened"))
    answer = client.get(f"/{TOKEN}/run", params={"run": path})
    assert answer.status_code == 400
    assert "no run" in answer.text
    assert "Traceback" not in answer.text
    assert Page(answer.text).texts["main"]
    if "/" in path and path.startswith(("..", "/")):
        assert client.get(f"/{TOKEN}/{path}").status_code in (403, 404)


@pytest.mark.parametrize("value", ["-1", "99", "x", "1e3", "", "٣", "9" * 400, "0x1", "1;2", "None", *CORPUS[:12]])
def test_hostile_numbers_are_refused_in_words(client, value):
    for path, keys in (
        ("layer", ("observable", "page", "restriction")),
        ("influence", ("observable", "sequence", "token", "restriction")),
    ):
        for key in keys:
            query = dict.fromkeys(keys, "0") | {"kind": "llc", key: value}
            line = last(client, path, **query)
            assert "must be" in line["error"]
            assert not line["gone"]
    assert get(client, "run", page=value).status_code == 400
    assert "error" in last(client, "layer", observable=0, page=0, restriction=0, kind=value)
    assert "error" in last(client, "part", name=value)


def test_a_study_cannot_name_runs_outside_of_itself(tmp_path):
    outside = write(synthetic_tree(num_draws=4), tmp_path / "secret.zarr")
    tree = study_tree([{"seed": 1}], num_draws=4)
    table = json.loads(tree.attrs["study"])
    names = ["../secret.zarr", "seed=1/../../secret.zarr", str(outside), "a\\b", "..", "C:/x", "\u202e\n"]
    table["runs"] |= {name: {"seed": 2} for name in names}
    tree.attrs["study"] = json.dumps(table)
    with client_of(write(tree, tmp_path / "study.zarr")) as client:
        page = client.get(f"/{TOKEN}/").text
        assert len(Page(page).cells["runs"]) == 2
        assert f"{len(names)} runs have names that cannot be shown" in page
        for name in names:
            assert get(client, "run", run=name).status_code == 400


def test_every_answer_says_what_browsers_must_not_do(client):
    for path in ("run", "states", "part", "nothing"):
        headers = get(client, path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_nothing_of_a_store_becomes_part_of_a_page(tmp_path):
    path = write(hostile_tree(), tmp_path / "hostile.zarr")
    with client_of(path, tokenizer=Hostile(), text_note=CORPUS[5]) as client:
        html = get(client, "run").text
        page = Page(html)
        tags = [tag for tag, _ in page.tags]
        assert tags.count("script") == 2
        assert not {"img", "iframe", "base", "link", "object", "embed"} & set(tags)
        pieces = [result(client, "part", name=name)["html"] for name in ("summary", "coefficients", "traces")]
        for text in (html, *pieces):
            for tag, attrs in Page(text + "<script>0</script>").tags:
                assert not [key for key in attrs if key.startswith("on") or key in ("src", "style")], (tag, attrs)
                assert (attrs.get("href") or "#").startswith(("#", "./", "run?"))
            assert not [c for c in text if ord(c) < 32 and c not in "\n\t"]
            assert "\u202e" not in text
        found = result(client, "search", text="document.title")
        assert found["places"] > 0
        for hit in found["hits"]:
            assert hit["href"].startswith("run?run=.&observable=")
        raw = get(client, "search", text="document.title").text
        assert "<" not in raw
        made = result(client, "influence", observable=0, sequence=0, token=5)
        assert all(each["href"].startswith("run?") for side in made["sides"] for each in side)


# What happens to the store meanwhile.


@pytest.mark.slow
def test_a_store_that_grows_is_read_again(tmp_path):
    from support.small_runs import run

    path = tmp_path / "run.zarr"
    run(path, num_draws=4)
    with client_of(path) as client:
        before = get(client, "state").json()
        first = result(client, "layer", observable=0, page=0, kind="llc", restriction=0)
        assert first == result(client, "layer", observable=0, page=0, kind="llc", restriction=0)
        grown = run(path, num_draws=8)
        after = get(client, "state").json()
        assert after["stamp"] != before["stamp"]
        assert int(after["steps"].replace(",", "")) > int(before["steps"].replace(",", ""))
        _wait_until_stale(client)
        second = floats(result(client, "layer", observable=0, page=0, kind="llc", restriction=0)["values"])
        expected = token_llc(grown, "watched").isel(restriction=0)["llc"].values
        shown = second.reshape(len(expected), -1)[:, 1:]
        np.testing.assert_allclose(shown, expected, rtol=1e-5)
        assert not np.allclose(floats(first["values"]), second, equal_nan=True)


def _wait_until_stale(client):
    """Let the time go by in which the store is not asked again."""
    import time

    time.sleep(0.6)


def test_a_run_that_is_going_on_is_shown_as_far_as_it_is(tmp_path):
    import zarr

    tree = synthetic_tree(num_chains=3, num_draws=20, observables={"a": (2, 6)})
    path = write(tree, tmp_path / "run.zarr")
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    state = group["status/state"][:]
    state[0, 2] = "running"
    group["status/state"][:] = state
    with client_of(path) as client:
        html = get(client, "run").text
        assert "Chains are left out" in html
        assert get(client, "state").json()["state"] == "running"
        made = result(client, "layer", observable=0, page=0, kind="llc", restriction=0)
        expected = token_llc(tree.isel(chain=slice(0, 2)), "a").isel()["llc"].values
        np.testing.assert_allclose(floats(made["values"]).reshape(2, 6)[:, 1:], expected, rtol=1e-5)
        state[0, 2] = "finished"
        group["status/state"][:] = state
        _wait_until_stale(client)
        assert "Chains are left out" not in get(client, "run").text


def test_a_store_that_vanishes_is_said_to_have(tmp_path, tree):
    path = write(tree, tmp_path / "run.zarr")
    with client_of(path, sampling_task="train") as client:
        assert get(client, "run").status_code == 200
        shutil.rmtree(path)
        _wait_until_stale(client)
        page = get(client, "run")
        assert page.status_code == 503
        assert "cannot be read any more: it was moved or deleted" in Page(page.text).texts["main"]
        queries = {"part": {"name": "traces"}, "layer": {"observable": 0, "page": 0, "kind": "llc", "restriction": 0},
                   "influence": {"observable": 0, "sequence": 0, "token": 1}, "search": {"text": "1"}, "brief": {}}  # fmt: skip
        for name, query in queries.items():
            line = last(client, name, **query)
            assert line["gone"], name
            assert "moved or deleted" in line["error"]
        assert get(client, "state").json()["gone"]
        for answer in (page.text, *(get(client, name, **query).text for name, query in queries.items())):
            assert "Traceback" not in answer
            assert "site-packages" not in answer


@pytest.mark.slow
def test_numbers_of_a_store_that_vanishes_meanwhile_are_not_given(tmp_path, tree, monkeypatch):
    from devinterp_view.server import answers

    path = write(tree, tmp_path / "run.zarr")
    original = answers.layer

    def vanish(*arguments):
        shutil.rmtree(path)
        return original(*arguments)

    monkeypatch.setattr(answers, "layer", vanish)
    with client_of(path) as client:
        line = last(client, "layer", observable=0, page=0, kind="llc", restriction=0)
        assert line["gone"]
        assert "result" not in line


def test_a_store_that_never_was(tmp_path):
    with pytest.raises(StoreGoneError, match="cannot be read"):
        Library(str(tmp_path / "nothing.zarr")).table()


def test_a_store_that_was_found_gone_is_not_fresh_any_more(store, tmp_path, monkeypatch):
    """A page that is loaded again right after the message must not show the run once more."""
    monkeypatch.setattr(opened, "_FRESH", 3600.0)
    path = tmp_path / "run.zarr"
    shutil.copytree(store, path)
    library = Library(str(path))
    library.open(".")
    shutil.rmtree(path)
    assert library.table().runs == {".": {}}  # seen a moment ago
    for ask in (library.check_there, library.table, lambda: library.open(".")):
        with pytest.raises(StoreGoneError, match="cannot be read"):
            ask()
    shutil.copytree(store, path)
    assert library.open(".").path == "."


def test_two_viewers_do_not_share_a_token(store):
    viewer = Viewer(Library(str(store)))
    from starlette.testclient import TestClient

    with TestClient(make_app(viewer, "one"), base_url="http://localhost") as one:
        assert one.get("/one/states").status_code == 200
        assert one.get("/two/states").status_code == 403
