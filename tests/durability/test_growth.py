"""More of the same run is added to its store; another run is refused and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import devinterp
from devinterp.errors import StoreError, StoreMismatchError
from support.small_models import ids, make, same_numbers
from support.small_runs import RESTRICTIONS, Ended, counting, crash, files, run

MODES = ["sequential", "vectorized"]


@pytest.mark.parametrize("chains", MODES)
@pytest.mark.parametrize(
    "keep_state", [pytest.param(False, marks=pytest.mark.heavy), True], ids=["replayed", "from the kept state"]
)
@pytest.mark.parametrize("kernel", [pytest.param("sgld", marks=pytest.mark.slow), "rmsprop_sgld"])
def test_more_draws(tmp_path: Path, kernel: str, keep_state: bool, chains: str) -> None:
    path, settings = tmp_path / "run.zarr", {"sampling_method": kernel, "chains": chains, "keep_state": keep_state}
    run(path, num_draws=5, **settings)
    assert (path / "resume").exists() == keep_state
    # A step of all chains at once is one pass through the model.
    steps_of_one = 3 + 10 * 2 - (3 + 5 * 2 if keep_state else 0)
    model = counting()
    longer = run(path, model, num_draws=10, **settings)
    groups = 1 if chains == "vectorized" else 2
    assert model.taken == steps_of_one * groups * 2
    same_numbers(longer.load(), run(num_draws=10, **settings))


def test_replaying_evaluates_no_draw_again(tmp_path: Path) -> None:
    run(tmp_path / "run.zarr", num_draws=5)
    evaluated = []

    class Watched(type(make())):  # type: ignore[misc]
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled():
                evaluated.append(len(ids))
            return super().forward(ids)

    Watched.__qualname__ = "TinyModel"
    run(tmp_path / "run.zarr", make(Watched), num_draws=7)
    anew = len(evaluated)
    evaluated.clear()
    run(None, make(Watched), num_draws=7)
    assert len(evaluated) - anew >= 5 * 4  # five draws of four chains


@pytest.mark.parametrize("matched", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_more_chains(tmp_path: Path, matched: bool) -> None:
    path, settings = tmp_path / "run.zarr", {"match_sampling_input_ids_across_chains": matched}
    run(path, **settings)
    before = chunks(path)
    more = run(path, num_chains=4, **settings)
    same_numbers(more.load(), run(num_chains=4, **settings))
    untouched(before, chunks(path))


@pytest.mark.parametrize("init_noise", [None, 0.01])
def test_more_restrictions(tmp_path: Path, init_noise: float | None) -> None:
    path, settings = tmp_path / "run.zarr", {"init_noise": init_noise}
    run(path, weight_restrictions={"mix": RESTRICTIONS["mix"]}, **settings)
    before = chunks(path)
    # The order of the store is kept.
    more = run(path, weight_restrictions={"full": None, "mix": RESTRICTIONS["mix"]}, **settings)
    assert list(more["restriction"].values) == ["mix", "full"]
    same_numbers(more.load(), run(weight_restrictions={"mix": RESTRICTIONS["mix"], "full": None}, **settings))
    untouched(before, chunks(path))


@pytest.mark.heavy
def test_another_observable(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run(path)
    both = {"watched": ids("train"), "code": ids("code")}
    same_numbers(run(path, observables=both).load(), run(observables=both))


@pytest.mark.heavy
def test_all_at_once_and_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run(path, num_chains=1, num_draws=2, weight_restrictions={"full": None})
    larger = {"num_chains": 3, "num_draws": 5}
    for after in (5, 20, 40):
        with pytest.raises(Ended):
            run(path, counting(after, crash), **larger)
    # A new run of this size measures the losses at w0 too; a store that was made without them is not given them unasked.
    same_numbers(run(path, **larger).load(), run(**larger, paired=False))


def test_the_very_same_run_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run(path)
    before = files(path)
    run(path)
    assert files(path) == before


CHANGES: dict[str, dict[str, Any]] = {
    "lr": {"lr": 2e-3},
    "kernel": {"sampling_method": "rmsprop_sgld"},
    "fewer draws": {"num_draws": 3},
    "fewer chains": {"num_chains": 1},
    "fewer restrictions": {"weight_restrictions": {"full": None}},
    "another mask": {"weight_restrictions": {**RESTRICTIONS, "mix": {"mix.weight": torch.eye(6, dtype=torch.bool)}}},
    "data": {"dataset": ids("code")},
    "observable": {"observables": {"watched": ids("code")}},
    "loss": {"loss_fn": lambda model, batch: model(batch)[:, :-1, 0] ** 2},
    "seed and more draws": {"init_seed": 7, "num_draws": 9},
}


@pytest.mark.parametrize("changed", CHANGES)
def test_another_run_is_refused(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "run.zarr"
    run(path)
    before = files(path)
    with pytest.raises(StoreMismatchError, match="holds another run"):
        run(path, **CHANGES[changed])
    assert files(path) == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "run.zarr", make()
    run(path)
    with torch.no_grad():
        model.head.bias[3] += 1e-6
    with pytest.raises(StoreMismatchError, match="weights"):
        run(path, model, num_draws=9)


def test_what_a_killed_creation_left_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from devinterp.store.arrays import create

    path = tmp_path / "run.zarr"
    written: list[str] = []
    whole = create.zarr.api.asynchronous.create_array

    async def dying(store: Any, *, name: str, **others: Any) -> Any:
        written.append(name)
        if len(written) == 9:
            raise Ended
        return await whole(store, name=name, **others)

    with monkeypatch.context() as patched:
        patched.setattr(create.zarr.api.asynchronous, "create_array", dying)
        with pytest.raises(Ended):
            run(path)
    assert (path / "trace").exists()
    with pytest.raises(StoreError, match="holds no sampling run"):
        devinterp.open(path)
    same_numbers(run(path).load(), run())


def test_provenance_of_both_parts(tmp_path: Path) -> None:
    run(tmp_path / "run.zarr", num_draws=3, notes={"who": "me"})
    provenance = json.loads(run(tmp_path / "run.zarr").attrs["provenance"])
    assert provenance["notes"] == {"who": "me"}
    assert [set(part) >= {"packages", "finished"} for part in provenance["earlier"]] == [True]
    assert np.all(["sequential" in provenance["paths"][f"chains/{name}"] for name in RESTRICTIONS])


def chunks(path: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(path).items() if not name.endswith("zarr.json")}


def untouched(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    for name, content in before.items():
        assert after[name] == content, name
