"""Sizes of chunks, and what a new store holds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from devinterp import schema
from devinterp.store.arrays.layout import RecordingLayout
from devinterp.store.arrays.specs import MAX_BUFFER_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, array_specs, loss_chunks
from devinterp.store.reading.open import open as open_store
from support.layouts import AT_W0, MOMENTS, RECORDED, VIRIAL, layout, make, paths_of_schema


@settings(max_examples=500, deadline=None)
@given(
    num_rows=st.integers(1, 10**6),
    num_samples=st.integers(1, 10**5),
    sample_bytes=st.one_of(st.integers(0, 10**5), st.integers(10**5, 10**8)),
)
def test_chunks_of_losses(num_rows, num_samples, sample_bytes):
    rows, samples = loss_chunks(num_rows, num_samples, sample_bytes)
    sample_bytes = max(1, sample_bytes)
    assert 1 <= rows <= num_rows
    assert 1 <= samples <= num_samples
    size = rows * samples * sample_bytes
    assert size <= MAX_CHUNK_BYTES or (rows, samples) == (1, 1)
    # What a writer gathers: the rows of a chunk, of all samples.
    assert rows * num_samples * sample_bytes <= MAX_BUFFER_BYTES or rows == 1
    # Smaller than 4 MiB, less the row or sample that does not fit, only where there is no more, or the buffer is full.
    larger = (rows + 1) * samples * sample_bytes, rows * (samples + 1) * sample_bytes
    exhausted = rows == num_rows and samples == num_samples
    full_buffer = (rows + 1) * num_samples * sample_bytes > MAX_BUFFER_BYTES and larger[1] > MIN_CHUNK_BYTES
    assert exhausted or min(larger) > MIN_CHUNK_BYTES or max(larger) > MIN_CHUNK_BYTES or full_buffer


@pytest.mark.parametrize(
    ("num_rows", "num_samples", "positions"),
    [(200, 96, 127), (200, 96, 1023), (2000, 32, 511), (100, 4096, 127), (100, 100_000, 255), (10_000, 1, 31)],
)
def test_chunks_of_ordinary_runs_are_4_to_16_mebibytes(num_rows, num_samples, positions):
    rows, samples = loss_chunks(num_rows, num_samples, 4 * positions)
    size = 4 * rows * samples * positions
    whole = 4 * num_rows * num_samples * positions
    assert min(whole, MIN_CHUNK_BYTES) * 0.9 <= size <= MAX_CHUNK_BYTES


def test_some_sequences_of_all_draws_can_be_read_without_the_rest():
    rows, samples = loss_chunks(1000, 4096, 4 * 127)
    assert samples <= 64
    assert rows >= 16


@settings(max_examples=10, deadline=None)
@given(
    num_restrictions=st.integers(1, 3),
    num_chains=st.integers(1, 3),
    num_steps=st.integers(1, 5),
    batch=st.integers(1, 3),
    positions=st.integers(1, 3),
    num_sequences=st.integers(1, 4),
    metrics=st.booleans(),
)
def test_a_new_store_has_the_schema(num_restrictions, num_chains, num_steps, batch, positions, num_sequences, metrics):
    wanted = layout(
        num_restrictions=num_restrictions,
        num_chains=num_chains,
        num_steps=num_steps,
        draw_steps=tuple(range(num_steps)),
        batch=batch,
        positions=positions,
        observables={"code": num_sequences, "日本 語.v2": 2},
        metrics=("noise",) if metrics else (),
    )
    store = MemoryStore()
    make(store, wanted)
    paths = set(schema.DIMS) - MOMENTS - AT_W0 - VIRIAL - RECORDED - (set() if metrics else {"metrics/*"})
    for tree in (open_store(store), xr.open_datatree(store, engine="zarr", chunks={})):
        assert paths_of_schema(tree) == paths
        assert schema.observable_names(tree) == ["code", "日本 語.v2"]
        sizes = {"restriction": num_restrictions, "chain": num_chains, "step": num_steps, "batch": batch}
        assert tree["trace/loss"].sizes == {**sizes, "position": positions}
        assert np.isnan(tree["trace/loss"]).all()
        assert set(tree["status/state"].to_numpy().ravel()) == {schema.PENDING}
        assert tree["restriction"].to_numpy().tolist() == list(wanted.restrictions)
        np.testing.assert_array_equal(tree["observables/code/init_loss"], wanted.observables["code"].init_loss)
        np.testing.assert_array_equal(tree["observables/code/token_ids"], wanted.observables["code"].token_ids)
        np.testing.assert_array_equal(tree["trace/sequence_id"], wanted.sequence_id)
        np.testing.assert_array_equal(tree["trace/position"], np.arange(1, positions + 1))
        np.testing.assert_array_equal(tree["num_moving"], list(wanted.restrictions.values()))
        assert tree["observables/code"].dataset.coords.keys() >= {"sequence_id", "position", "restriction", "chain"}


def test_no_two_chains_share_a_chunk():
    specs = array_specs(layout(num_restrictions=3, metrics=("noise",)))
    chunks = {spec.path: spec.chunks[:2] for spec in specs if spec.dims[:2] == ("restriction", "chain")}
    assert chunks.keys() >= {"trace/loss", "observables/code/loss", "metrics/noise", "status/state"}
    assert set(chunks.values()) == {(1, 1)}


@given(
    own=st.lists(st.integers(1, 400), max_size=3),
    num_draws=st.integers(1, 5000),
    dtype=st.sampled_from(["float32", "float64", "int64"]),
)
def test_chunks_of_recordings(own, num_draws, dtype):
    """One chain each; at most 16 MiB, and as many draws as 4 MiB hold, up to 2^14."""
    dims = tuple(f"dim{n}" for n in range(len(own)))
    initial = np.broadcast_to(np.zeros((), dtype), own)  # takes no memory
    recordings = {"mine": RecordingLayout({"value": initial}, {"value": dims})}
    wanted = replace(layout(num_restrictions=2, draw_steps=tuple(range(num_draws))), recordings=recordings)
    [spec] = [spec for spec in array_specs(wanted) if spec.path == "recordings/mine/value"]
    assert spec.dims == ("restriction", "chain", "draw", *dims)
    assert spec.shape == (2, 2, num_draws, *own)
    assert spec.chunks[:2] == (1, 1)
    item = np.dtype(dtype).itemsize
    assert item * math.prod(spec.chunks) <= MAX_CHUNK_BYTES
    of_draw = item * math.prod(own)
    assert spec.chunks[2] == max(1, min(num_draws, 2**14, MIN_CHUNK_BYTES // of_draw))
    if of_draw <= MAX_CHUNK_BYTES:
        assert spec.chunks[3:] == tuple(own)


def test_every_array_carries_its_units():
    units = {spec.path: spec.attrs.get("units") for spec in array_specs(layout()) if "loss" in spec.path}
    assert units.keys() >= {"trace/loss", "trace/init_loss", "observables/code/loss", "observables/code/init_loss"}
    assert set(units.values()) == {"nats"}


def test_losses_without_dims_of_their_own():
    from devinterp.store.arrays.layout import ObservableLayout

    base = layout()
    wanted = replace(
        base,
        loss_dims=(),
        init_loss=base.init_loss[:, 0],
        init_loss_se=base.init_loss_se[:, 0],
        observables={"x": ObservableLayout(np.zeros(5, np.float32), np.arange(5))},
    )
    store = MemoryStore()
    make(store, wanted)
    tree = open_store(store)
    assert tree["trace/loss"].dims == ("restriction", "chain", "step", "batch")
    assert tree["observables/x/loss"].dims == ("restriction", "chain", "draw", "sequence")
    assert "position" not in tree["trace"].dataset.variables
    assert "token_ids" not in tree["observables/x"]
