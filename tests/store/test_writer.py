"""The writer: any pattern of draws gives the same arrays; a write that fails is known at once; memory is bounded."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store.reading.open import open as open_store
from devinterp.store.writing import thread
from devinterp.store.writing.writer import TraceWriter
from devinterp.types import Draw
from support.layouts import FullStore, full_store, layout, make


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def chain_of(key, trace, watched, cuts, draw_steps, metric=None):
    """Return the draws of one chain: cut after each step in `cuts`, and at every draw."""
    ends = sorted({*cuts, *draw_steps, len(trace) - 1})
    start, draws = 0, []
    for end in ends:
        index = draw_steps.index(end) if end in draw_steps else None
        steps = slice(start, end + 1)
        draws.append(
            Draw(
                restriction=key[0],
                chain=key[1],
                first_step=start,
                loss=trace[steps],
                metrics={} if metric is None else {"noise": metric[steps]},
                index=index,
                observables={} if index is None else {"code": watched[index]},
            )
        )
        start = end + 1
    return draws


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_pattern_gives_the_same_arrays(data):
    num_steps = data.draw(st.integers(1, 12), label="steps")
    draw_steps = sorted(data.draw(st.sets(st.integers(0, num_steps - 1), min_size=1), label="draws"))
    chunk = data.draw(st.integers(1, 5), label="rows of a chunk")
    keys = [(r, c) for r in range(2) for c in range(2)]
    trace, watched = numbers(2, 2, num_steps, 3, 4), numbers(2, 2, len(draw_steps), 5, 4, seed=1)
    metric = numbers(2, 2, num_steps, seed=2)
    pending = {}
    for key in keys:
        cuts = data.draw(st.sets(st.integers(0, num_steps - 1)), label=f"cuts of {key}")
        pending[key] = chain_of(key, trace[key], watched[key], cuts, draw_steps, metric[key])

    store = MemoryStore()
    sizes = {"num_restrictions": 2, "num_steps": num_steps, "draw_steps": tuple(draw_steps), "metrics": ("noise",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "devinterp.store.arrays.specs.loss_chunks", lambda rows, samples, size: (min(chunk, rows), min(2, samples))
        )
        root = make(store, layout(**sizes))
    # All is drawn before the writer's thread runs: checks of types at run time draw random numbers too.
    plan = []
    while any(pending.values()):
        key = data.draw(st.sampled_from([key for key in keys if pending[key]]))
        plan.append((pending[key].pop(0), bool(pending[key]) and data.draw(st.booleans())))
    with TraceWriter(root, max_bytes=data.draw(st.integers(1, 2000))) as writer:
        for draw, flush in plan:
            writer.append(draw)
            if flush:
                writer.flush(draw.restriction, draw.chain)
    tree = open_store(store)
    np.testing.assert_array_equal(tree["trace/loss"], trace)
    np.testing.assert_array_equal(tree["observables/code/loss"], watched)
    np.testing.assert_array_equal(tree["metrics/noise"], metric)
    assert set(tree["status/state"].to_numpy().ravel()) == {schema.FINISHED}
    assert (tree["status/steps_done"] == num_steps).all()


def test_an_error_ends_its_chain_only():
    store = MemoryStore()
    trace, watched = numbers(6, 3, 4), numbers(3, 5, 4, seed=1)
    draws = chain_of((0, 0), trace, watched, set(), [1, 3, 5])
    with TraceWriter(make(store)) as writer:
        writer.append(draws[0])
        writer.append(Draw(restriction=0, chain=0, first_step=2, loss=trace[2:3], error="step 3: as a test"))
        for draw in chain_of((0, 1), trace, watched, set(), [1, 3, 5]):
            writer.append(draw)
    tree = open_store(store)
    assert tree["status/state"].to_numpy().tolist() == [["diverged", "finished"]]
    assert tree["status/error"].to_numpy().tolist() == [["step 3: as a test", ""]]
    assert tree["status/steps_done"].to_numpy().tolist() == [[3, 6]]
    assert np.isnan(tree["trace/loss"][0, 0, 3:]).all()
    assert np.isnan(tree["observables/code/loss"][0, 0, 1:]).all()


def test_what_was_gathered_is_written_when_a_run_is_broken_off():
    store, trace = MemoryStore(), numbers(6, 3, 4)
    draws = chain_of((0, 1), trace, numbers(3, 5, 4), {0}, [1, 3, 5])
    root = make(store)

    def broken_off():
        with TraceWriter(root) as writer:
            for draw in draws[:3]:
                writer.append(draw)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    tree = open_store(store)
    assert tree["status/state"].to_numpy().tolist() == [["pending", "interrupted"]]
    assert tree["status/steps_done"].to_numpy().tolist() == [[0, 4]]
    np.testing.assert_array_equal(tree["trace/loss"][0, 1, :4], trace[:4])
    assert np.isnan(tree["trace/loss"][0, 1, 4:]).all()


def test_a_flush_makes_progress_visible():
    store, trace = MemoryStore(), numbers(6, 3, 4)
    writer = TraceWriter(make(store))
    for draw in chain_of((0, 0), trace, numbers(3, 5, 4), set(), [1, 3, 5])[:2]:
        writer.append(draw)
    writer.flush(0, 0)
    wait_until(lambda: int(open_store(store)["status/steps_done"][0, 0]) == 4)
    tree = open_store(store)
    assert tree["status/state"].to_numpy().tolist() == [["running", "pending"]]
    np.testing.assert_array_equal(tree["trace/loss"][0, 0, :4], trace[:4])
    writer.close()


def test_steps_come_in_order():
    with (
        pytest.raises(AssertionError, match="steps out of order: expected 0, got 2"),
        TraceWriter(make(MemoryStore())) as w,
    ):
        w.append(Draw(restriction=0, chain=0, first_step=2, loss=numbers(1, 3, 4)))


LONG = {"num_steps": 400, "draw_steps": (399,), "positions": 16}


def test_a_failed_write_is_known_at_the_next_append():
    """Even where that append only gathers: the chunk that fails is written long before the next is full."""
    store, root = full_store(**LONG)
    writer = TraceWriter(root)
    loss = numbers(400, 3, 16)
    writer.append(Draw(restriction=0, chain=0, first_step=0, loss=loss[:1]))
    wait_until(lambda: writer._thread._queue.empty())
    store.capacity = 0
    writer.flush(0, 0)
    wait_until(lambda: writer._thread._error is not None)
    with pytest.raises(
        StoreError, match=r"writing to the store failed:.*No space left.*What was written before is kept"
    ):
        writer.append(Draw(restriction=0, chain=0, first_step=1, loss=loss[1:2]))
    with pytest.raises(StoreError, match="No space left"):
        writer.close()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_full_store_keeps_what_was_written_before(share):
    loss, watched = numbers(400, 3, 16), numbers(1, 5, 16)
    sizes = {**LONG}

    def write(store, root):
        with TraceWriter(root, max_bytes=1) as writer:
            for chain in range(2):
                for draw in chain_of((0, chain), loss, watched, range(0, 400, 7), [399]):
                    writer.append(draw)
                    if draw.first_step % 70 == 0:
                        writer.flush(0, chain)

    whole, root = full_store(**sizes)
    before = whole.written
    write(whole, root)
    store, root = full_store(**sizes)
    store.capacity = before + int(share * (whole.written - before))
    with pytest.raises(StoreError, match="No space left"):
        write(store, root)
    tree = open_store(store)
    for chain in range(2):
        done = int(tree["status/steps_done"][0, chain])
        np.testing.assert_array_equal(tree["trace/loss"][0, chain, :done], loss[:done])
    assert "finished" not in tree["status/state"].to_numpy()[0, 1]


def test_the_error_that_ended_the_run_is_the_one_shown():
    store, root = full_store(**LONG)

    def fail():
        with TraceWriter(root) as writer:
            writer.append(Draw(restriction=0, chain=0, first_step=0, loss=numbers(1, 3, 16)))
            store.capacity = 0
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_no_thread_stays_behind():
    store, root = full_store(**LONG)
    store.capacity = 0
    with pytest.raises(StoreError, match="No space left"), TraceWriter(root) as writer:
        writer.append(Draw(restriction=0, chain=0, first_step=0, loss=numbers(1, 3, 16)))
    assert not [t for t in threading.enumerate() if t.name == "devinterp-writer" and t.is_alive()]


def test_what_passes_is_tried_again(monkeypatch):
    monkeypatch.setattr(thread, "BACKOFF", (0.0, 0.0))
    failures = iter([ConnectionError("away"), TimeoutError("still away")])

    class Flaky(FullStore):
        async def set(self, key, value, *args, **kwargs):
            if "/c/" in key and "trace/loss" in key:
                for error in failures:
                    raise error
            await super().set(key, value, *args, **kwargs)

    store = Flaky(MemoryStore())
    trace = numbers(6, 3, 4)
    with TraceWriter(make(store)) as writer:
        for draw in chain_of((0, 0), trace, numbers(3, 5, 4), set(), [1, 3, 5]):
            writer.append(draw)
    np.testing.assert_array_equal(open_store(store)["trace/loss"][0, 0], trace)


def test_what_does_not_pass_ends_the_run(monkeypatch):
    monkeypatch.setattr(thread, "BACKOFF", (0.0, 0.0))

    class Away(FullStore):
        away = False

        async def set(self, key, value, *args, **kwargs):
            if self.away:
                raise ConnectionError("away")
            await super().set(key, value, *args, **kwargs)

    store = Away(MemoryStore())
    root = make(store)
    store.away = True

    def write():
        with TraceWriter(root) as writer:
            for draw in chain_of((0, 0), numbers(6, 3, 4), numbers(3, 5, 4), set(), [1, 3, 5]):
                writer.append(draw)

    with pytest.raises(StoreError, match=r"ConnectionError: away.*run again"):
        write()


def test_a_slow_store_makes_sampling_wait():
    """Two chunks have room, one of them being written, and one more makes `append` wait."""
    gate, entered = threading.Event(), threading.Event()

    class Slow(FullStore):
        slow = False

        async def set(self, key, value, *args, **kwargs):
            if self.slow:
                entered.set()
                gate.wait(30)
            await super().set(key, value, *args, **kwargs)

    store = Slow(MemoryStore())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devinterp.store.arrays.specs.loss_chunks", lambda rows, samples, size: (1, samples))
        root = make(store, num_steps=50, draw_steps=(49,))
    loss = numbers(50, 3, 4)
    writer = TraceWriter(root, max_bytes=2 * loss[0].nbytes)
    store.slow = True
    appended = []

    def sample():
        for step in range(50):
            index = 0 if step == 49 else None
            observables = {"code": numbers(5, 4)} if step == 49 else {}
            writer.append(
                Draw(
                    restriction=0,
                    chain=0,
                    first_step=step,
                    loss=loss[step : step + 1],
                    index=index,
                    observables=observables,
                )
            )
            appended.append(step)

    sampling = threading.Thread(target=sample)
    sampling.start()
    assert entered.wait(20)
    time.sleep(0.3)
    assert len(appended) <= 2, "sampling must not run ahead of a store that does not keep up"
    gate.set()
    sampling.join(30)
    writer.close()
    np.testing.assert_array_equal(open_store(store)["trace/loss"][0, 0], loss)


def test_whole_chunks_are_written_once():
    """Chunks are never written in parts, but for the last one of a chain."""
    store = FullStore(MemoryStore())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devinterp.store.arrays.specs.loss_chunks", lambda rows, samples, size: (10, samples))
        root = make(store, num_steps=60, draw_steps=(59,), num_chains=1, observables={})
    before = store.writes
    with TraceWriter(root) as writer:
        for step in range(60):
            writer.append(Draw(restriction=0, chain=0, first_step=step, loss=numbers(1, 3, 4), index=None))
    status = 3 + 2  # state, error, steps_done at the start; steps_done and state at the end
    assert store.writes - before <= 6 + status
    assert isinstance(root["trace/loss"], zarr.Array)
