"""The store of one run: what sampling asks of it, in memory, in a temporary directory and at a path."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore, MemoryStore

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.arrays.specs import array_specs
from devinterp.store.location import describe
from devinterp.store.run_store import RunStore
from devinterp.types import Checkpoint, Draw
from support.layouts import layout

ATTRS = {"config": "{}", "provenance": "{}"}


@pytest.fixture(params=["memory", "path", "temporary"])
def run(request, tmp_path):
    if request.param == "temporary":
        with RunStore.temporary() as store:
            yield store
    else:
        yield RunStore.memory() if request.param == "memory" else RunStore.at(tmp_path / "run.zarr")


@pytest.fixture
def filled(run):
    """A run of one restriction and two chains, six steps each; the first chain is finished."""
    run.create(layout(), ATTRS)
    with run.writer() as writer:
        for index, step in enumerate((0, 2, 4)):
            observables = {"code": np.zeros((5, 4), np.float32)}
            loss = losses()[step : step + 2]
            writer.append(
                Draw(restriction=0, chain=0, first_step=step, loss=loss, index=index, observables=observables)
            )
    return run


def losses() -> np.ndarray:
    return np.arange(6 * 3 * 4, dtype=np.float32).reshape(6, 3, 4)


def write_array(run: RunStore, path: str, selection, values) -> None:
    zarr.open_array(run.store, path=path, mode="r+", zarr_format=3)[selection] = values


def test_names(tmp_path):
    assert RunStore.at(tmp_path / "a.zarr").name == describe(tmp_path / "a.zarr")
    assert RunStore.memory().name == "memory"
    with RunStore.temporary() as run:
        assert run.name == "memory"


def test_a_temporary_store_is_removed():
    with RunStore.temporary() as run:
        run.create(layout(), ATTRS)
        root = run.store.root
        assert (root / "zarr.json").exists()
    assert not root.exists()


def test_other_processes_can_write_unless_it_is_this_process_memory(tmp_path):
    assert not RunStore.memory().is_shareable
    assert not RunStore.at("memory://shareable/run.zarr").is_shareable
    assert isinstance(RunStore.at("memory://shareable/run.zarr").store, FsspecStore)
    assert RunStore.at(tmp_path).is_shareable
    with RunStore.temporary() as run:
        assert run.is_shareable
        assert pickle.loads(pickle.dumps(run)) == run


def test_empty_until_it_is_created(run):
    assert run.is_empty()
    run.create(layout(), ATTRS)
    assert not run.is_empty()
    run.inspect()
    assert run.read_attrs()["config"] == "{}"
    assert run.read_attrs("nowhere") == {}


def test_arrays_by_their_path(filled):
    np.testing.assert_array_equal(filled.read_array("trace/loss")[0, 0], losses())
    assert np.isnan(filled.read_array("trace/loss")[0, 1]).all()
    assert filled.contains("observables/code/token_ids")
    assert filled.contains("observables")
    assert filled.contains("")
    assert not filled.contains("observables/other")
    write_array(filled, "trace/loss", (0, 1, slice(0, 2)), losses()[:2])
    np.testing.assert_array_equal(filled.read_array("trace/loss")[0, 1, :2], losses()[:2])


def test_sizes_are_those_of_the_files(tmp_path):
    run = RunStore.at(tmp_path / "run.zarr")
    run.create(layout(), ATTRS)
    root = tmp_path / "run.zarr"
    files = {file.relative_to(root).as_posix(): file.stat().st_size for file in root.rglob("*") if file.is_file()}
    assert run.key_sizes() == files
    assert "trace/sequence_id/c/0/0/0" in files


def test_attributes_change_alone(filled):
    before = filled.read_attrs()
    filled.update_attrs({"provenance": "{1}"})
    filled.update_attrs({"plan": {"full": []}}, schema.STATUS)
    assert filled.read_attrs() == {**before, "provenance": "{1}"}
    assert filled.read_attrs(schema.STATUS)["plan"] == {"full": []}


def test_chains_that_are_not_at_their_end(filled):
    assert filled.pending(6) == {(0, 1): 0}
    assert filled.pending(9) == {(0, 0): 6, (0, 1): 0}, "finished, of fewer steps"
    write_array(filled, "status/state", (0, slice(1, 2)), schema.DIVERGED)
    assert filled.pending(6) == {}
    write_array(filled, "status/state", (0, slice(1, 2)), schema.INTERRUPTED)
    for stored, steps_done in ((-3, 0), (4, 4), (100, 6)):
        write_array(filled, "status/steps_done", (0, 1), stored)
        assert filled.pending(6) == {(0, 1): steps_done}


class Counting(MemoryStore):
    """Counts what is read."""

    reads = 0

    async def get(self, *args, **kwargs):
        self.reads += 1
        return await super().get(*args, **kwargs)


def test_what_some_chains_cost_does_not_grow_with_the_run():
    reads = []
    for num_chains in (2, 40):
        run = RunStore(Counting(), "counted")
        run.create(layout(num_chains=num_chains), ATTRS)
        with run.writer() as writer:
            writer.begin([(0, chain) for chain in range(num_chains)])
        run.store.reads = 0
        status = run.read_status([(0, 1)])
        reads.append(run.store.reads)
        assert status.state.tolist() == [["pending", "interrupted", *["pending"] * (num_chains - 2)]]
    assert reads[0] == reads[1] < 20


def test_a_state_that_cannot_be_read_counts_as_not_begun(filled):
    keys.put(filled.store, "status/state/c/0/0", b"damaged")
    for status in (filled.read_status(), filled.read_status([(0, 0)])):
        assert status.state[0, 0] == "pending"
        assert status.steps_done[0, 0] == 6


def test_files_are_read_as_zarr_reads_them(tmp_path):
    """The states of a directory come from its files; the same keys in memory from zarr."""
    run = RunStore.at(tmp_path / "run.zarr")
    run.create(layout(num_chains=5), ATTRS)
    with run.writer() as writer:
        writer.begin([(0, chain) for chain in range(4)])
        writer.finish(0, 1, state=schema.DIVERGED, error="step 3: not finite")
    keys.put(run.store, "status/steps_done/c/0/2", b"damaged")
    keys.put(run.store, "status/error/c/0/1", keys.get(run.store, "status/error/c/0/1")[:-1] + b"x")
    keys.delete(run.store, "status/state/c/0/3")
    copy = MemoryStore()
    keys.put_many(copy, keys.contents(run.store))
    for chains in (None, [(0, 1)], [(0, 3), (0, 4)]):
        ours, theirs = run.read_status(chains), RunStore(copy, "copy").read_status(chains)
        for name in ("state", "steps_done", "error"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert run.read_status().state[0].tolist() == ["interrupted", "diverged", "interrupted", "pending", "pending"]


def test_chains_go_on_or_begin_again(filled):
    filled.reopen([(0, 0)], from_start=False)
    assert filled.pending(6)[0, 0] == 6
    write_array(filled, "status/error", (0, slice(0, 1)), "step 3: as a test")
    filled.reopen([(0, 0)], from_start=True)
    assert filled.pending(6)[0, 0] == 0
    assert filled.read_status().error[0, 0] == ""


def test_it_grows(filled):
    filled.grow(layout(num_chains=3), ATTRS)
    assert filled.pending(6) == {(0, 1): 0, (0, 2): 0}
    np.testing.assert_array_equal(filled.read_array("trace/loss")[0, 0], losses())


def test_damaged_data_are_removed_and_written_again(filled):
    assert filled.discard_damaged() == set()
    write_array(filled, "trace/init_loss", ..., np.inf)
    write_array(filled, "trace/loss", (0, 0, 2), np.inf)
    assert filled.discard_damaged() == {"trace/init_loss"}
    assert filled.pending(6) == {(0, 0): 0, (0, 1): 0}
    filled.rewrite(layout(), {"trace/init_loss"})
    data = {spec.path: spec.data for spec in array_specs(layout())}
    np.testing.assert_array_equal(filled.read_array("trace/init_loss"), data["trace/init_loss"])


def test_one_process_at_a_time(run):
    run.create(layout(), ATTRS)
    with run.lock() as lock:
        if isinstance(run.store, MemoryStore):
            assert lock is None
            assert run.lock_holder() is None
        else:
            assert run.lock_holder().token == lock.owner.token
            with pytest.raises(StoreError, match="is being written by process"), run.lock():
                pass
    assert run.lock_holder() is None


def test_memory_that_a_caller_keeps_is_locked():
    with RunStore.at(MemoryStore()).lock() as lock:
        assert lock is not None


def test_checkpoints(filled):
    state = Checkpoint(restrictions=(0,), chains=(1,), step=2, arrays={"weights": [np.arange(3.0)]})
    filled.checkpoint_slots([0], [1]).save(state)
    loaded = filled.checkpoint_slots([0], [1]).load(most=6)
    assert loaded.step == 2
    np.testing.assert_array_equal(loaded.arrays["weights"][0], np.arange(3.0))
    filled.remove_checkpoints()
    assert filled.checkpoint_slots([0], [1]).load(most=6) is None


def test_leftovers_of_a_killed_writer(tmp_path):
    run = RunStore.at(tmp_path / "run.zarr")
    run.create(layout(), ATTRS)
    (tmp_path / "run.zarr/trace/half.partial").write_bytes(b"")
    run.remove_leftovers()
    assert not list(tmp_path.rglob("*.partial"))


def test_the_tree_is_lazy_unless_it_is_wanted_in_memory(filled):
    tree = filled.open_tree()
    # Without Dask, which a small store does not need; one in memory has been read.
    assert tree["trace/loss"].chunks is None
    assert tree["trace/loss"].variable._in_memory == filled.in_memory
    np.testing.assert_array_equal(tree["trace/loss"][0, 0], losses())


def test_a_store_that_collects_writes_is_told():
    class Collecting(MemoryStore):
        messages: list[str] = []  # noqa: RUF012

        def commit(self, message):
            self.messages.append(message)

    RunStore(Collecting(), "memory").commit("run prepared")
    RunStore.memory().commit("nothing to do")
    assert Collecting.messages == ["run prepared"]
