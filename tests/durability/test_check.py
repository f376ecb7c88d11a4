"""`devinterp check`, `resume` and `info`: what is damaged is named, and sampled again."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import devinterp
from devinterp import cli
from devinterp.errors import StoreError
from devinterp.store import lock
from devinterp.store.integrity import Damage, check
from support import small_models
from support.small_models import same_numbers
from support.small_runs import Ended, counting, crash, run

Said = tuple[int, str, str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    run(tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> Said:
        code = cli.run([str(each) for each in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def found(path: Path) -> list[Damage]:
    return list(check(LocalStore(path)))


def test_a_sound_store(path: Path, command: Callable[..., Said]) -> None:
    assert found(path) == []
    assert command("check", path)[0] == 0


def test_an_interrupted_store_is_sound(tmp_path: Path) -> None:
    with pytest.raises(Ended):
        run(tmp_path / "run.zarr", counting(40, crash))
    assert found(tmp_path / "run.zarr") == []


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


DAMAGE: dict[str, Callable[[Path], object]] = {"flipped": flip, "truncated": truncate, "removed": Path.unlink}
#: A chunk of each kind of array, and what of the store it belongs to.
CHUNKS = {
    "trace/loss/c/1/0/0/0/0": (1, 0),
    "observables/watched/loss/c/0/1/0/0/0": (0, 1),
    "metrics/noise/c/1/1/0": (1, 1),
    "trace/sequence_id/c/0/0/0": None,
    "observables/watched/init_loss/c/0/0": None,
}


@pytest.mark.parametrize(
    "how",
    ["flipped", pytest.param("truncated", marks=pytest.mark.slow), pytest.param("removed", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_damage_is_named_and_mended(path: Path, chunk: str, how: str) -> None:
    whole = devinterp.open(path).load()
    DAMAGE[how](path / chunk)
    assert [(each.path, each.chain) for each in found(path)] == [(chunk.partition("/c/")[0], CHUNKS[chunk])]
    same_numbers(run(path, repair=True).load(), whole)
    assert found(path) == []


@pytest.mark.parametrize("name", ["row_id", "row_loss", "sequence_id"])
def test_what_an_extended_run_holds_is_mended_as_it_was(tmp_path: Path, name: str) -> None:
    """Its arrays have other chunks, and its rows another order, than those of a run that was as long from the start."""
    path = tmp_path / "run.zarr"
    sample_rows = partial(small_models.run, output_path=path, paired=True)
    sample_rows(num_draws=2)
    whole = sample_rows(num_draws=5).load()
    for chunk in (path / "trace" / name / "c").rglob("*"):
        if chunk.is_file():
            flip(chunk)
    mended = sample_rows(num_draws=5, repair=True).load()
    order = {key: np.argsort(tree["trace/row_id"].values) for key, tree in (("before", whole), ("after", mended))}
    for tree, how in ((whole, "before"), (mended, "after")):
        for each in ("row_id", "row_loss"):
            tree["trace"][each] = tree["trace"][each][order[how]]
    same_numbers(mended, whole)
    assert found(path) == []


def test_a_damaged_status_is_named_and_the_chain_run_again(path: Path) -> None:
    whole = devinterp.open(path).load()
    flip(path / "status/state/c/0/1")
    assert next(each.chain for each in found(path)) == (0, 1)
    same_numbers(run(path, repair=True).load(), whole)


def test_a_chain_that_claims_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with pytest.raises(Ended):
        run(path, counting(22, crash))
    done = zarr.open_array(path / "status/steps_done")
    done[0, 1] = 13
    assert {(each.path, each.chain) for each in found(path)} >= {("trace/loss", (0, 1))}
    assert "has no values at step" in str(found(path)[0])


def test_values_that_are_no_numbers(path: Path) -> None:
    losses = zarr.open_array(path / "trace/loss")
    losses[0, 0, 3] = np.inf
    assert "infinite" in str(found(path)[0])


def test_the_command_names_damage(path: Path, command: Callable[..., Said]) -> None:
    flip(path / "trace/loss/c/1/0/0/0/0")
    code, out, _ = command("check", path)
    assert code == 1
    assert "damaged: trace/loss, restriction 1, chain 0: chunk trace/loss/c/1/0/0/0/0 cannot be read" in out


def test_damage_that_a_resumed_run_would_meet_is_an_error_there(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with pytest.raises(Ended):
        run(path, counting(24, crash))
    flip(path / "trace/loss/c/0/1/0/0/0")
    with pytest.raises(StoreError, match="writing to the store failed"):
        run(path)
    same_numbers(run(path, repair=True).load(), run())


def test_a_damaged_state_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with pytest.raises(Ended):
        run(path, counting(30, crash))
    saved = [file for file in path.glob("resume/*/slot*/values/c/*") if file.is_file()]
    assert saved
    for file in saved:
        flip(file)
    same_numbers(run(path).load(), run())


def test_info_of_a_live_a_dead_and_a_finished_run(
    tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    path, seen = tmp_path / "run.zarr", []

    def look() -> None:
        end = time.monotonic() + 20
        while "rate" not in lock.holder(LocalStore(path)).progress and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(command("info", path))
        raise Ended

    with pytest.raises(Ended):
        run(path, counting(20, look))
    assert seen[0][0] == 0, seen[0][2]
    assert f"at work: process {os.getpid()}" in seen[0][1]
    assert re.search(r"\d steps/s, about .* left", seen[0][1])
    out = command("info", path)[1]
    assert "incomplete: 3 of 4 chains are not at their end; call `sample` with the same arguments again" in out
    run(path)
    assert "complete\n" in command("info", path)[1]
    assert "60 of 60 steps (100 %)" in command("info", path)[1]


@pytest.mark.parametrize(
    ("array", "other"),
    [
        ("status/steps_done", "trace/step"),
        ("status/state", "observables/watched/loss"),
        ("observables/watched/token_ids", "status/error"),
    ],
)
def test_metadata_of_another_array(tmp_path: Path, array: str, other: str) -> None:
    path = tmp_path / "run.zarr"
    run(path)
    shutil.copy(path / other / "zarr.json", path / array / "zarr.json")
    assert [damage for damage in check(LocalStore(path)) if damage.path in (array, "status")]


@pytest.mark.parametrize("array", ["status/state", "trace/init_loss"])
def test_metadata_of_format_2_never_reach_a_decoder_of_pickles(
    path: Path, array: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of a stranger may hold an array of objects in Zarr's older format, whose decoder unpickles."""
    from numcodecs.pickles import Pickle

    decoded = []
    monkeypatch.setattr(Pickle, "decode", lambda self, buf, out=None: decoded.append(buf))
    shape = json.loads((path / array / "zarr.json").read_text())["shape"]
    (path / array / "zarr.json").unlink()
    forged = {
        "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (path / array / ".zarray").write_text(json.dumps(forged))
    (path / array / ".".join("0" * len(shape))).write_bytes(b"anything")
    assert {damage.path for damage in check(LocalStore(path))} & {array, "status"}
    with pytest.raises(StoreError, match=f"has no readable `{array}`"):
        run(path, num_draws=8)
    assert not decoded
