"""``devinterp report`` on a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devinterp import cli, plugins
from devinterp.errors import InvalidInputError
from devinterp.testing import synthetic_tree
from devinterp_view.passages import parse
from devinterp_view.recorded import recorded_task
from support.report_page import Page
from support.written_trees import write

SOURCES = Path(__file__).parents[1] / "src"


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command with this plugin, installed or from its folder; return its exit code and what it printed."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        installed = "report" in plugins.commands()
        before = [] if installed else ["--plugins-dir", str(SOURCES)]
        code = cli.run([*before, *(str(each) for each in arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_a_store_becomes_a_page(run, tmp_path):
    tree = synthetic_tree(num_restrictions=2, num_chains=2, num_draws=12, observables={"train": (3, 7), "code": (2, 6)})
    tree.attrs["provenance"] = json.dumps(
        {
            "notes": {
                "devinterp sample": {"model": "gpt2", "dataset": "prose", "observable": ["train=prose", "code=code"]}
            }
        }
    )
    store = write(tree, tmp_path / "run.zarr")
    output = tmp_path / "report.html"
    code, out, err = run(
        "report", store, "-o", output, "--passages", "train:0-1", "code", "--num-passages", "1", "--top-k", "2"
    )
    assert (code, err) == (0, "")
    assert out.startswith(f"Wrote {output} (")
    assert "Tokens are shown as ids: pass --tokenizer (the run names 'gpt2')." in out
    page = Page(output.read_text(encoding="utf-8"))
    assert [each["label"] for each in page.data["passages"]] == ["train 0", "train 1", "code 0"]
    assert {each["kind"] for each in page.data["layers"]} == {
        "llc",
        "susceptibility",
    }  # the task is known from the notes
    assert page.data["influence"]["rank"] == 2

    code, _, err = run("report", store, "-o", output)
    assert code == 2
    assert "exists: choose another name" in err
    assert run("report", store, "-o", output, "--overwrite")[0] == 0
    code, _, err = run("report", store, "-o", tmp_path / "new.html", "--passages", "train:x")
    assert code == 2
    assert "must look like name, name:3 or name:0-2,5" in err
    assert not (tmp_path / "new.html").exists()


def test_passages_are_parsed():
    assert parse(["a", "b:3", "c:0-2,5", "b:1"]) == {"a": None, "b": [3, 1], "c": [0, 1, 2, 5]}
    for wrong in ("a:", "a:1-", "a:-1", "a:1-x", "a:0-999999999"):
        with pytest.raises(InvalidInputError, match="passages"):
            parse([wrong])


def test_the_sampling_task_is_taken_from_notes_only_where_there_is_one():
    tree = synthetic_tree(num_draws=4)
    assert recorded_task(tree) is None
    for observable, task in ((["a=x", "b=y"], "a"), (["a=x", "b=x"], None), (["b=y"], None)):
        notes = {"devinterp sample": {"dataset": "x", "observable": observable}}
        tree.attrs["provenance"] = json.dumps({"notes": notes})
        assert recorded_task(tree) == task
