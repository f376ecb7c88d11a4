"""Opening: what is no store, or a newer one, is said so; a store needs nothing of this package to be read."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

import devinterp
from devinterp.errors import InvalidInputError, StoreError
from devinterp.store.arrays.chunk_codec import is_plain
from devinterp.store.reading.stored_array import StoredArray
from devinterp.testing import synthetic_tree
from support.layouts import layout, make
from support.small_models import run


@pytest.fixture
def path(tmp_path):
    make(LocalStore(tmp_path / "run.zarr"))
    return tmp_path / "run.zarr"


@pytest.fixture
def sampled(tmp_path):
    run(output_path=tmp_path / "sampled.zarr", num_chains=2)
    return tmp_path / "sampled.zarr"


def edit(path, **attrs):
    """Change attributes of a store, in its own metadata, which hold the consolidated ones of what is below."""
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"].update(attrs)
    (path / "zarr.json").write_text(json.dumps(metadata))


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match=r"cannot open .*nowhere\.zarr as a store"):
        devinterp.open(tmp_path / "nowhere.zarr")
    assert list(tmp_path.iterdir()) == [], "opening creates nothing"


def test_an_empty_directory_and_a_file(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"cannot open .*empty as a store: .*No group found"):
        devinterp.open(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match=r"notes\.txt is a file; a store is a directory"):
        devinterp.open(tmp_path / "notes.txt")


PARTS = [{}, {"chain": 1}, {"step": slice(1, 5, 2)}, {"step": [3, 0]}, {"chain": -1, "step": slice(None, None, -1)}]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_small_run_is_what_xarray_reads(sampled, part):
    for chunks in ("stored", None):
        ours, theirs = devinterp.open(sampled, chunks=chunks), xr.open_datatree(sampled, engine="zarr", chunks=None)
        assert [node.path for node in ours.subtree] == [node.path for node in theirs.subtree]
        for one, other in zip(ours.subtree, theirs.subtree, strict=True):
            one, other = (each.to_dataset(inherit=False).isel(part, missing_dims="ignore") for each in (one, other))
            xr.testing.assert_identical(one, other)
            for name, variable in one.variables.items():
                assert variable.dtype == other[name].dtype
                assert str(variable.encoding) == str(other[name].encoding)


def test_chunks_that_are_not_there_have_the_fill_value(sampled):
    shutil.rmtree(sampled / "trace/loss/c/0/1")
    tree = devinterp.open(sampled)
    assert tree["trace/loss"].isel(chain=1).isnull().all()
    assert not devinterp.open(sampled)["trace/loss"].isel(chain=0).isnull().any()


def test_only_chunks_that_are_asked_for_are_read(sampled):
    for file in (sampled / "trace/loss/c/0/1").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    assert devinterp.open(sampled)["trace/loss"].isel(chain=0).notnull().all()
    with pytest.raises(StoreError, match="trace/loss/c/0/1.* is damaged"):
        devinterp.open(sampled)["trace/loss"].load()


def test_what_is_changed_in_a_tree_is_not_changed_in_its_copies(sampled):
    tree = devinterp.open(sampled)
    copy = pickle.loads(pickle.dumps(tree.copy()))
    before = copy["trace/loss"].copy(deep=True)
    tree["trace/loss"][:] = 0.0
    assert (tree["trace/loss"] == 0).all()
    xr.testing.assert_identical(copy["trace/loss"], before)
    xr.testing.assert_identical(devinterp.open(sampled)["trace/loss"], before)


@pytest.mark.usefixtures("unchecked")
def test_no_location():
    with pytest.raises(InvalidInputError, match=r"is a path, a URL or a zarr store; got float"):
        devinterp.open(1.5)


def test_options_of_storage_are_for_urls(path):
    with pytest.raises(
        InvalidInputError, match=r"`storage_options` are for URLs such as 's3://\.\.\.'; got .*run\.zarr"
    ):
        devinterp.open(path, storage_options={"anon": True})


def test_a_store_of_someone_else(tmp_path):
    xr.DataTree.from_dict({"/": xr.Dataset({"x": 1}), "/a": xr.Dataset({"y": 2})}).to_zarr(
        tmp_path / "other.zarr", consolidated=False
    )
    with pytest.raises(
        StoreError, match=r"other\.zarr holds no sampling run: its attributes lack `schema_version`\. Expected"
    ):
        devinterp.open(tmp_path / "other.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="f4")
    with pytest.raises(StoreError, match=r"cannot open .*array\.zarr as a store: .*An array already exists"):
        devinterp.open(tmp_path / "array.zarr")


@pytest.mark.parametrize("version", [3, 99, "1", None])
def test_another_schema_version(path, version):
    edit(path, schema_version=version)
    with pytest.raises(
        StoreError, match=rf"has schema version {version!r}; this version of devinterp reads 1 and 2: update devin"
    ):
        devinterp.open(path)


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        *((text, r"zarr\.json is damaged: it is no JSON object") for text in ("", "{", "[]", "null", "\0\0\0")),
        (
            '{"zarr_format": 3, "node_type": "group", "attributes": 3}',
            "attributes are damaged: they are no JSON object",
        ),
    ],
)
def test_broken_metadata(path, text, damage):
    (path / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match=rf"cannot open .*run\.zarr as a store: the store's {damage}"):
        devinterp.open(path)


def test_lazy_unless_told_otherwise(path):
    """A small store is read when it is used, and without Dask."""
    small = devinterp.open(path)["trace/loss"]
    assert small.chunks is None
    shutil.rmtree(path / "trace/loss/c", ignore_errors=True)
    assert np.isnan(small).all(), "opening reads no loss"
    tree = devinterp.open(path, eager_bytes=0)
    assert tree["trace/loss"].chunks is not None
    assert devinterp.open(path, chunks={"chain": 2})["trace/loss"].chunks[1] == (2,)
    plain = devinterp.open(path, chunks=None)["trace/loss"]
    assert plain.chunks is None
    assert not plain.variable._in_memory


def test_a_path_as_text_and_a_store_object(path):
    for location in (str(path), LocalStore(path), LocalStore(path, read_only=True)):
        assert devinterp.open(location)["trace/loss"].sizes["step"] == 6


def test_opening_cannot_write(path):
    tree = devinterp.open(path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    tree["trace/loss"].compute()
    tree["trace/loss"].load()[...] = 0
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_runs_below_a_root(tmp_path):
    from devinterp import schema
    from devinterp.store.arrays.create import create_run

    store = LocalStore(tmp_path / "sweep.zarr")
    for name in ("checkpoints/100", "checkpoints/200"):
        create_run(store, layout(), {"config": "{}", "provenance": "{}"}, group=name)
    tree = devinterp.open(tmp_path / "sweep.zarr")
    assert sorted(schema.runs(tree)) == ["checkpoints/100", "checkpoints/200"]
    one = devinterp.open(tmp_path / "sweep.zarr", group="checkpoints/200")
    assert schema.is_run(one)
    assert one["trace/loss"].sizes["chain"] == 2
    with pytest.raises(StoreError, match=r"cannot open .*sweep\.zarr as a store: .*checkpoints/300"):
        devinterp.open(tmp_path / "sweep.zarr", group="checkpoints/300")
    with pytest.raises(StoreError, match="holds no sampling run"):
        devinterp.open(tmp_path / "sweep.zarr", group="checkpoints/100/trace")


def test_a_zip_of_a_store(path, tmp_path):
    import shutil

    name = shutil.make_archive(str(tmp_path / "run"), "zip", path)
    tree = devinterp.open(name)
    assert tree["trace/loss"].sizes["step"] == 6


def test_a_synthetic_tree_written_by_xarray_opens(tmp_path):
    tree = synthetic_tree(num_restrictions=2)
    tree.to_zarr(tmp_path / "made.zarr", consolidated=False)
    again = devinterp.open(tmp_path / "made.zarr")
    np.testing.assert_array_equal(again["trace/loss"], tree["trace/loss"])
    xr.testing.assert_allclose(again.slt.llc().compute(), tree.slt.llc())


def test_metadata_are_consolidated(path):
    """Opening costs one read, not one for every array."""
    assert "consolidated_metadata" in json.loads((path / "zarr.json").read_text())


def test_a_store_is_read_without_this_package(path):
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("devinterp", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import xarray as xr, zarr
tree = xr.open_datatree(sys.argv[1], engine="zarr")
assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch", "position")
assert tree["observables/code/token_ids"].dims == ("sequence", "token")
assert tree.attrs["schema_version"] == 2
assert zarr.open_group(sys.argv[1], mode="r")["trace/loss"].shape == (1, 2, 6, 3, 4)
print("read")
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "read\n"


def test_a_flipped_bit_is_found(path, tmp_path):
    """Every chunk has a checksum."""
    store = MemoryStore()
    root = make(store)
    root["trace/loss"][...] = np.random.default_rng(0).random((1, 2, 6, 3, 4), dtype=np.float32)
    key = next(key for key in store._store_dict if key.startswith("trace/loss/c/"))
    data = bytearray(store._store_dict[key].to_bytes())
    data[len(data) // 2] ^= 1
    store._store_dict[key] = type(store._store_dict[key]).from_bytes(bytes(data))
    with pytest.raises(ValueError, match="(?i)checksum"):
        devinterp.open(store)["trace/loss"].compute()


def test_chunks_that_take_different_room_are_read_one_after_the_other(tmp_path):
    """Of random numbers, which hardly shrink, of one number, and of none, in either order."""
    values = np.random.default_rng(0).random((6, 300), dtype=np.float32)
    values[[1, 4]], values[2] = 1.5, np.nan
    for number, wanted in enumerate((values, values[::-1])):
        array = zarr.create_array(
            LocalStore(tmp_path / str(number)),
            name="loss",
            shape=wanted.shape,
            dtype=wanted.dtype,
            chunks=(1, 300),
            compressors=[ZstdCodec(), Crc32cCodec()],
            fill_value=np.nan,
            config={"write_empty_chunks": False},
        )
        array[:] = wanted
        store, node = LocalStore(tmp_path / str(number)), array.metadata.to_dict()
        assert is_plain(store, node)
        read = StoredArray(store, "loss", node, wanted.dtype)._chunks_of((slice(None), slice(None)))
        np.testing.assert_array_equal(read, wanted)


def test_small_directories_open_as_xarray_opens_them(tmp_path):
    """With the same indexes, coordinates and dtypes, though what they hold is read as files and not through zarr."""
    run(output_path=str(tmp_path / "run.zarr"), weight_restrictions={"a": None, "b": {"head.bias": None}}, num_chains=2)
    through_zarr = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", chunks=None)
    opened = devinterp.open(tmp_path / "run.zarr")
    xr.testing.assert_identical(xr.DataTree.from_dict(opened.to_dict()), through_zarr)
    for wanted, node in zip(through_zarr.subtree, opened.subtree, strict=True):
        assert set(node.xindexes) == set(wanted.xindexes)
        for name, variable in wanted.variables.items():
            assert node.variables[name].dtype == variable.dtype, name
            assert node.variables[name].encoding.get("chunks") == variable.encoding.get("chunks"), name
