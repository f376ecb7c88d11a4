"""Studies open fast and hold what xarray alone reads, run by run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from xarray.core import indexing
from zarr.storage import LocalStore

import devinterp
from devinterp import study
from devinterp.errors import StoreError
from devinterp.store.reading import open_study
from support.small_models import SHORT, ids, make, same_numbers

SETTINGS = {**SHORT, "num_draws": 3, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.zarr"
    study(
        {step: make() for step in (0, 8)},
        ids(),
        {"watched": (ids(), 1)},
        over={"num_draws": [3, 5], "seed": [1, 2]},
        output_path=path,
        **{name: value for name, value in SETTINGS.items() if name != "num_draws"},
    )
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study.zarr"))


def is_in_memory(variable: xr.Variable) -> bool:
    data = variable._data
    if isinstance(data, indexing.MemoryCachedArray):
        return isinstance(data.array, indexing.NumpyIndexingAdapter)
    return isinstance(data, np.ndarray)


def test_it_is_what_xarray_reads(made: Path) -> None:
    ours, theirs = devinterp.open(made), xr.open_datatree(made, engine="zarr")
    assert set(ours.children) == set(theirs.children)
    for name in ours.children:
        one, other = ours[name], theirs[name]
        assert one.attrs == other.attrs
        for node in one.subtree:
            path = node.relative_to(one)
            for key, variable in node.to_dataset(inherit=False).variables.items():
                expected = other[path].to_dataset(inherit=False).variables[key]
                assert variable.dtype == expected.dtype, key
                assert variable.attrs == expected.attrs, key
        same_numbers(one.copy().load(), other.copy().load())
    same_numbers(devinterp.open(LocalStore(made)).load(), ours.load())


def test_parts_of_arrays(made: Path) -> None:
    name = "checkpoint=8,num_draws=5,seed=2"
    lazy, whole = devinterp.open(made)[name], xr.open_datatree(made, engine="zarr")[name].load()
    for part in (
        {"step": slice(1, 4), "chain": 0},
        {"batch": [0, 2], "step": -1},
        {"step": slice(None, None, 2)},
        {"step": [3, 1]},
    ):
        np.testing.assert_array_equal(lazy["trace/loss"].isel(part), whole["trace/loss"].isel(part))
    assert str(lazy["status/state"][0, 1].item()) == "finished"


def test_of_larger_arrays_only_what_is_asked_for_is_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from devinterp.store.reading import stored_array

    monkeypatch.setattr(stored_array, "MAX_WHOLE_BYTES", 0)
    test_parts_of_arrays(made)


ANALYSES: dict[str, Callable[[xr.DataTree], Any]] = {
    "llc": lambda tree: tree.slt.llc(),
    "diagnose": lambda tree: tree.slt.diagnose(),
    "sensitivity": lambda tree: tree.slt.sensitivity(),
    "bif": lambda tree: tree.slt.bif(),
    "to_arviz": lambda tree: tree.slt.to_arviz(),
}


@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.parametrize("are_large", [False, True])
@pytest.mark.parametrize("of_study", [False, True])
def test_how_often_an_analysis_reads_an_array(
    made: Path, monkeypatch: pytest.MonkeyPatch, name: str, are_large: bool, of_study: bool
) -> None:
    from devinterp import runs
    from devinterp.store.reading.stored_array import StoredArray

    tree = devinterp.open(made if of_study else made / "checkpoint=8,num_draws=5,seed=2")
    if are_large:
        monkeypatch.setattr(runs, "EAGER_BYTES", 0)
    read: Counter[tuple[str, str, str]] = Counter()
    reads = StoredArray._chunks_of

    def counted(self: StoredArray, key: tuple[Any, ...]) -> np.ndarray:
        # With the store: the first run of each layout is opened as one of its own.
        read[str(self._store), self._path, str(key)] += 1
        return reads(self, key)

    monkeypatch.setattr(StoredArray, "_chunks_of", counted)
    ANALYSES[name](tree)
    assert read
    most = 1 if name == "llc" else 2  # two, where parts of it are selected before anything is read
    assert max(read.values()) <= most, read


def test_large_runs_have_chunks(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = devinterp.open(made).slt.llc()
    monkeypatch.setattr(open_study, "EAGER_BYTES", 0)
    tree = devinterp.open(made)
    assert tree["checkpoint=8,num_draws=5,seed=2/trace/loss"].chunks is not None
    np.testing.assert_allclose(tree.slt.llc()["llc_mean"], expected["llc_mean"])


def test_what_is_read_of_large_studies_is_not_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from devinterp import runs

    tree = devinterp.open(made)
    expected = devinterp.open(made).slt.llc()
    monkeypatch.setattr(runs, "EAGER_BYTES", 0)
    xr.testing.assert_identical(tree.slt.llc(), expected)
    assert not any(is_in_memory(run["trace"].variables["loss"]) for run in tree.children.values())
    small = devinterp.open(made)
    monkeypatch.setattr(runs, "EAGER_BYTES", 2**28)
    small.slt.llc()
    assert all(is_in_memory(run["trace"].variables["loss"]) for run in small.children.values())


def test_a_damaged_chunk_is_named(path: Path) -> None:
    name = "checkpoint=8,num_draws=5,seed=2"
    chunk = path / name / "trace" / "loss" / "c" / "0" / "1" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(
        StoreError, match=r"chunk checkpoint=8,num_draws=5,seed=2/trace/loss/c/0/1/0/0/0 is damaged: its checksum"
    ):
        devinterp.open(path)[name]["trace/loss"].load()
    chunk.unlink()
    assert devinterp.open(path)[name]["trace/loss"].sel(chain=1).isnull().all()
    # Strings that claim more than there is room for are refused before they are decoded.
    from numcodecs import Zstd
    from numcodecs.checksum32 import CRC32C

    state = path / name / "status" / "state" / "c" / "0" / "0"
    state.write_bytes(bytes(CRC32C(location="end").encode(Zstd().encode((2**31).to_bytes(4, "little") + b"abcd"))))
    with pytest.raises(StoreError, match="claims more strings than it has room for"):
        devinterp.open(path)[name]["status/state"].load()


def test_metadata_of_a_run_are_validated(path: Path) -> None:
    file = path / "checkpoint=8,num_draws=5,seed=2" / "zarr.json"
    root = json.loads(file.read_text())
    root["consolidated_metadata"]["metadata"]["trace/loss"]["shape"] = [-1]
    file.write_text(json.dumps(root))
    with pytest.raises(StoreError, match="trace/loss"):
        devinterp.open(path)


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"version": 2, "dims": {}, "runs": {}}', '{"version": 1, "dims": {}, "runs": {"a": 1}}']
)
def test_a_damaged_table(path: Path, text: str) -> None:
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["study"] = text
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="table of this study"):
        devinterp.open(path)


def test_runs_that_have_not_begun_are_left_out(path: Path) -> None:
    shutil.rmtree(path / "checkpoint=0,num_draws=3,seed=1")
    tree = devinterp.open(path)
    assert len(tree.children) == 7
    assert tree.slt.llc()["llc_mean"].isnull().sum() == 1
