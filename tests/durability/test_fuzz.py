"""Stores that were damaged or made to do harm: an error that says so, never a crash, a hang or a wrong number."""

from __future__ import annotations

import copy
import json
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.storage import LocalStore, MemoryStore

import devinterp
from devinterp.errors import DevinterpError, StoreError
from devinterp.store import keys
from devinterp.store.integrity.verify import check
from devinterp.store.writing.checkpoints import CheckpointSlots
from support.small_models import same_numbers
from support.small_runs import files, run

HOSTILE: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**62, 10**30, 1e308, float("nan"), "", "x", "../../etc", "/etc/passwd", "\0"),
    *([], {}, [[]], [-1], [10**12] * 5, {"name": "pickle"}, [{"name": "pickle"}], "float16", "object", "<M8[ns]"),
]
#: Arrays that are compared with the sound store's.
READ = ("trace/loss", "trace/init_loss", "trace/sequence_id", "observables/watched/loss", "metrics/noise")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("sound") / "run.zarr"
    run(path, keep_state=True, num_draws=3)
    return files(path)


@pytest.fixture(scope="module")
def numbers(sound: dict[str, bytes]) -> dict[str, np.ndarray]:
    tree = devinterp.open(in_memory(sound)).load()
    return {name: tree[name].to_numpy() for name in READ}


def in_memory(content: dict[str, bytes]) -> MemoryStore:
    return MemoryStore({name: cpu.Buffer.from_bytes(value) for name, value in content.items()})


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def edit(content: bytes, rng: random.Random) -> bytes:
    """Put something hostile somewhere into metadata."""
    whole = json.loads(content)
    place = rng.choice(places(whole))
    value = copy.deepcopy(rng.choice(HOSTILE))
    if not place:
        return json.dumps(value).encode()
    parent = whole
    for key in place[:-1]:
        parent = parent[key]
    kind = rng.randrange(4)
    if kind == 0:
        del parent[place[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["../../outside", "a/../../b", "", "x" * 300, "zarr.json"])] = parent.pop(place[-1])
    else:
        parent[place[-1]] = value
    return json.dumps(whole).encode()


def mutate(content: dict[str, bytes], rng: random.Random) -> tuple[dict[str, bytes], str]:
    mutated = dict(content)
    key = rng.choice(sorted(mutated))
    value = bytearray(mutated[key])
    kind = rng.choice(["flip", "truncate", "delete", "random", "swap", "edit", "edit", "edit"])
    if kind == "edit":
        key = rng.choice([name for name in sorted(mutated) if name.endswith("zarr.json")])
        mutated[key] = edit(mutated[key], rng)
    elif kind == "flip" and value:
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        mutated[key] = bytes(value)
    elif kind == "truncate":
        mutated[key] = bytes(value[: rng.randrange(len(value) + 1)])
    elif kind == "delete":
        del mutated[key]
    elif kind == "random":
        mutated[key] = rng.randbytes(rng.randrange(300))
    else:
        mutated[key] = mutated[rng.choice(sorted(mutated))]
    return mutated, f"{kind} {key}"


def fuzz(sound: dict[str, bytes], numbers: dict[str, np.ndarray], *, count: int, seed: int) -> None:
    rng = random.Random(seed)
    refused = noticed = 0
    for number in range(count):
        mutated, what = mutate(sound, rng)
        store, began = in_memory(mutated), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # xarray and zarr may wonder at what they read
                wrong = opened(store, numbers)
                damages = None
                try:
                    damages = list(check(store))
                    noticed += bool(damages)
                except DevinterpError:
                    refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutation {number}: {what}") from error
        # What its checksum or its absence gives away is never taken for a number. (Swapped chunks have valid checksums.)
        if wrong and "/c/" in what and not what.startswith(("swap", "edit")):
            assert damages, f"seed {seed}, mutation {number}: {what} changed {wrong} without a word"
        assert time.process_time() - began < 20, f"seed {seed}, mutation {number}: {what} takes too long"
    assert refused
    assert noticed > count / 10


def opened(store: MemoryStore, numbers: dict[str, np.ndarray]) -> list[str]:
    """Open and read a store; return which arrays differ from the sound one's without an error."""
    try:
        tree = devinterp.open(store)
    except DevinterpError:
        return []
    wrong = []
    for name, expected in numbers.items():
        try:
            array = tree[name]
            if array.nbytes > 10**8:
                continue
            found = array.to_numpy()
        except Exception:  # an error is all that is asked for
            continue
        if not (found.shape == expected.shape and np.array_equal(found, expected, equal_nan=True)):
            wrong.append(name)
    CheckpointSlots(store, [0], [0]).load(most=10**6)
    return wrong


@pytest.mark.heavy
def test_mutated_stores(sound: dict[str, bytes], numbers: dict[str, np.ndarray]) -> None:
    fuzz(sound, numbers, count=150, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_mutated_stores(sound: dict[str, bytes], numbers: dict[str, np.ndarray], seed: int) -> None:
    fuzz(sound, numbers, count=1000, seed=100 + seed)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    """Arrays of objects in zarr's older format are pickles."""
    root = zarr.open_group(tmp_path / "run.zarr", mode="w", zarr_format=2, attributes={"schema_version": 1})
    root.create_array("chain", shape=(2,), dtype="int64")
    array = json.loads((tmp_path / "run.zarr/chain/.zarray").read_text())
    (tmp_path / "run.zarr/chain/.zarray").write_text(json.dumps({**array, "filters": [{"id": "pickle"}]}))
    with pytest.raises(StoreError, match="codec 'pickle'"):
        devinterp.open(tmp_path / "run.zarr")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("shape", [10**12], "at most 200,000"),
        ("chunks", [2**40], "bytes"),
        ("shape", [-5], "lengths are between"),
        ("name", "../../../outside", "not a path inside it"),
    ],
)
def test_absurd_metadata(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = tmp_path / "inner" / "run.zarr"
    run(path)
    root = json.loads((path / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    if name == "name":
        nodes[value] = nodes.pop("draw")
    elif name == "chunks":
        nodes["draw"]["chunk_grid"]["configuration"]["chunk_shape"] = value
    else:
        nodes["draw"][name] = value
    (path / "zarr.json").write_text(json.dumps(root))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=said):
        devinterp.open(path)
    with pytest.raises(StoreError, match=said):
        run(path, num_draws=9)
    assert set(tmp_path.rglob("*")) == before


def test_a_hostile_plan_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run(path)
    store = LocalStore(path)
    groups = [{"chains": [10**9], "vectorized": True, "why": ""}, {"chains": [0, 0, 1], "vectorized": True, "why": ""}]
    keys.update_attrs(store, "status", {"plan": {"full": groups, "mix": "x"}})
    same_numbers(run(path, num_draws=8).load(), run(num_draws=8))
