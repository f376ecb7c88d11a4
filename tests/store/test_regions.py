"""Regions written as files are what zarr would have written, whatever was there before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from devinterp.store import keys
from devinterp.store.writing.regions import RegionWriter

FILLS = {"<f4": np.nan, "<f2": np.nan, ">f4": np.nan, "<f8": 0.0, "<i8": -1}


def array_in(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, fill: Any, **how: Any) -> Any:
    codecs = how.pop("compressors", (ZstdCodec(level=how.pop("level", 1)), Crc32cCodec()))
    return zarr.create_array(
        LocalStore(path),
        name="array",
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=fill,
        compressors=codecs,
        **how,
    )


@st.composite
def writes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[tuple[int, int], int, int]]]:
    """Return a shape, its chunks, and regions of chains: where they begin along the third dim, and their length."""
    shape = (2, 2, *draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    chunks = (1, 1, *(draw(st.integers(1, 8)) for _ in shape[2:]))
    regions = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, shape[2] - 1))
        length = draw(st.integers(0, shape[2] - start))
        regions.append(((draw(st.integers(0, 1)), draw(st.integers(0, 1))), start, length))
    return shape, chunks, regions


@settings(max_examples=60, deadline=None)
@given(writes(), st.sampled_from(list(FILLS)), st.integers(0, 2**32 - 1), st.sampled_from([-1, 1, 3]))
def test_they_hold_what_was_written(
    given_writes: tuple[tuple[int, ...], tuple[int, ...], list[Any]], dtype: str, seed: int, level: int
) -> None:
    shape, chunks, regions = given_writes
    rng, fill = np.random.default_rng(seed), FILLS[dtype]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            array_in(Path(folder) / name, shape, chunks, dtype, fill, level=level) for name in ("ours", "theirs")
        )
        writer = RegionWriter(ours)
        for chain, start, length in regions:
            values = rng.integers(0, 9, (length, *shape[3:])).astype(dtype)
            if rng.random() < 0.3:
                values[...] = fill
            elif values.ndim > 1 and rng.random() < 0.3:
                values[..., -1] = fill  # as of padded tokens
            writer.write(chain, start, values)
            theirs[(*chain, slice(start, start + length))] = values
        np.testing.assert_array_equal(zarr.open_array(Path(folder) / "ours" / "array", mode="r")[...], theirs[...])
        found, expected = (keys.contents(LocalStore(Path(folder) / name)) for name in ("ours", "theirs"))
        # The same chunks are stored, to the byte, and nothing else is left.
        assert found == expected


@pytest.mark.parametrize("values", ["finished", "", "pending", "ä" * 1000])
def test_text_of_single_chains_and_of_blocks(tmp_path: Path, values: str) -> None:
    ours, theirs = (array_in(tmp_path / name, (3, 2), (1, 1), str, "pending") for name in ("ours", "theirs"))
    writer = RegionWriter(ours)
    writer.write_cells((np.array([0, 2]), np.array([0, 1])), "running")
    theirs.set_orthogonal_selection((np.array([0, 2]), np.array([0, 1])), "running")
    writer.write_cells((2, 1), values)
    theirs[2:3, 1:2] = values
    assert ours[...].tolist() == theirs[...].tolist()
    assert ours[2, 1] == values


def test_numbers_of_chains(tmp_path: Path) -> None:
    steps = array_in(tmp_path, (3, 2), (1, 1), np.int64, 0)
    writer = RegionWriter(steps)
    writer.write_cells((1, 0), np.int64(7))
    writer.write((2, 1), 0, np.asarray(9))
    writer.write_cells((np.arange(1), np.arange(2)), np.int64(3))
    assert steps[...].tolist() == [[3, 3], [7, 0], [0, 9]]


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": BloscCodec()},
        {"chunks": (2, 1, 3)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
)
def test_arrays_that_another_program_made_are_written_by_zarr(tmp_path: Path, how: dict[str, Any]) -> None:
    chunks = how.pop("chunks", (1, 1, 3))
    array = array_in(tmp_path, (2, 2, 5), chunks, "<f4", np.nan, **how)
    values = np.arange(5, dtype="f4")
    RegionWriter(array).write((1, 0), 0, values)
    np.testing.assert_array_equal(array[1, 0], values)
    assert np.isnan(array[0]).all()
    assert np.isnan(array[1, 1]).all()


def test_what_a_store_of_ones_own_does_with_keys_is_done(tmp_path: Path) -> None:
    seen = []

    class Logged(LocalStore):
        async def set(self, key: str, value: Any) -> None:
            seen.append(key)
            await super().set(key, value)

    zarr.create_array(
        Logged(tmp_path), name="array", shape=(1, 1, 4), chunks=(1, 1, 2), dtype="f4",
        compressors=(ZstdCodec(), Crc32cCodec()),
    )  # fmt: skip
    seen.clear()
    RegionWriter(zarr.open_array(Logged(tmp_path), path="array")).write((0, 0), 0, np.ones(4, "f4"))
    keys.put(Logged(tmp_path), "other", b"1")
    assert sorted(seen) == ["array/c/0/0/0", "array/c/0/0/1", "other"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.write_file(f"{tmp_path}/a/b/c", b"before")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(keys.os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        keys.write_file(f"{tmp_path}/a/b/c", b"after")
    assert [file.name for file in (tmp_path / "a/b").iterdir()] == ["c"]
    assert (tmp_path / "a/b/c").read_bytes() == b"before"
    assert keys.is_leftover("c.0123.partial")


def test_a_chunk_that_grows_is_written_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As checkpoints do it: what a chain has gathered is written, again with more rows, and at last the whole chunk."""
    array = array_in(tmp_path, (1, 2, 10, 3), (1, 1, 8, 3), "<f4", np.nan)
    read: list[int] = []
    through_zarr = RegionWriter._through_zarr

    def counted(self: RegionWriter, chain: tuple[int, int], start: int, values: np.ndarray) -> None:
        read.append(start)
        through_zarr(self, chain, start, values)

    monkeypatch.setattr(RegionWriter, "_through_zarr", counted)
    values, writer = np.arange(60, dtype=np.float32).reshape(2, 10, 3), RegionWriter(array)
    for stop in (2, 5, 8):
        for chain in (0, 1):
            writer.write((0, chain), 0, values[chain, :stop])
    writer.write((0, 0), 8, values[0, 8:])
    assert read == []
    np.testing.assert_array_equal(array[0, 0], values[0])
    np.testing.assert_array_equal(array[0, 1, :8], values[1, :8])
    # Another writer does not know what the file holds beyond its rows, nor is that known of rows before those written.
    RegionWriter(array).write((0, 0), 0, values[1, :3])
    assert read == [0]
    np.testing.assert_array_equal(array[0, 0, :8], np.concatenate([values[1, :3], values[0, 3:8]]))
    writer.write((0, 1), 0, values[0, :2])
    assert read == [0, 0]
    np.testing.assert_array_equal(array[0, 1, :8], np.concatenate([values[0, :2], values[1, 2:8]]))


def test_rows_beyond_stay_where_the_last_columns_are_empty(tmp_path: Path) -> None:
    array = array_in(tmp_path, (1, 1, 4, 4), (1, 1, 4, 2), "<f4", np.nan)
    values = np.full((4, 4), np.nan, np.float32)
    values[:, :2] = np.arange(8).reshape(4, 2)
    RegionWriter(array).write((0, 0), 0, values)
    RegionWriter(array).write((0, 0), 0, values[:2])
    np.testing.assert_array_equal(array[0, 0], values)
