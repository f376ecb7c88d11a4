"""Joining the results of several runs: whatever their settings, every result is found under its own label."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp import runs
from devinterp.errors import InvalidInputError, MissingDataError, StoreError

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.1, 0.25, 1e-5]) | st.sampled_from(["a", "b"])
)
VALUES = SCALARS | st.lists(st.integers(0, 1), max_size=2) | st.dictionaries(st.sampled_from("xy"), st.integers(0, 1))
CONFIGS = st.lists(
    st.dictionaries(st.sampled_from(["lr", "checkpoint", "method", "output_path"]), VALUES), min_size=2, max_size=5
)


def run(config: object) -> xr.DataTree:
    attrs = {"schema_version": 1, "config": config if isinstance(config, str) else json.dumps(config)}
    return xr.DataTree(xr.Dataset(attrs=attrs))


def numbered(node: xr.DataTree) -> xr.Dataset:
    number = int(node.name.removeprefix("r"))
    return xr.Dataset({"number": ("chain", [number, number + 0.5])}, coords={"chain": [0, 1]})


@given(CONFIGS)
@settings(max_examples=200, deadline=None)
def test_every_result_is_found_under_its_label(configs: list[dict[str, object]]) -> None:
    tree = xr.DataTree(children={f"r{n}": run(config) for n, config in enumerate(configs)})
    joined = runs.compute_each(tree, numbered, name="numbered")
    assert isinstance(joined, xr.Dataset)
    dim, chain = joined["number"].dims
    assert chain == "chain"
    assert joined.sizes[dim] == len(configs)
    assert joined.indexes[dim].is_unique
    if dim == "run":
        for n in range(len(configs)):
            assert joined["number"].sel(run=f"r{n}").values.tolist() == [n, n + 0.5]
        return
    # One setting tells the runs apart: its values are the labels, and nothing else differs but where the run was written.
    for label, number in zip(joined[dim].values.tolist(), joined["number"].sel(chain=0).values, strict=True):
        assert configs[int(number)][dim] == label
    rest = [{key: value for key, value in each.items() if key not in (dim, "output_path")} for each in configs]
    assert all(each.get(key) == rest[0].get(key) for each in rest for key in {*each, *rest[0]})
    if all(isinstance(label, int | float) for label in joined[dim].values.tolist()):
        assert joined.indexes[dim].is_monotonic_increasing


def test_settings() -> None:
    assert runs.settings(run({"lr": 0.1})) == {"lr": 0.1}
    assert runs.settings(xr.DataTree()) == {}
    for bad in ("[1]", "{lr", "3"):
        with pytest.raises(StoreError, match="`config` of the run at '/' is no JSON object"):
            runs.settings(run(bad))


def test_only() -> None:
    tree = xr.DataTree(children={"a": run({}), "b": xr.DataTree(children={"c": run({})})})
    assert runs.only(tree["a"], name="x") is tree["a"]
    assert runs.only(tree["b"], name="x") is tree["b/c"]
    with pytest.raises(InvalidInputError, match=r"`x` needs one sampling run; below '/' there are 2: 'a', 'b/c'"):
        runs.only(tree, name="x")
    with pytest.raises(MissingDataError, match="`x` needs `trace/loss`"):
        runs.only(tree["a"], name="x", requires=["trace/loss"])


@pytest.mark.parametrize("other", ["checkpoint", "run"])
def test_an_own_dimension_of_that_name_is_refused(other: str) -> None:
    configs = {"a": {"checkpoint": 1}, "b": {"checkpoint": 2}} if other == "checkpoint" else {"a": {}, "b": {}}
    results = {path: xr.Dataset({"x": (other, np.arange(2))}) for path in configs}
    with pytest.raises(InvalidInputError, match=f"dimension '{other}' of their own"):
        runs.join(results, configs, name="x")


def test_results_of_different_kinds_are_refused() -> None:
    results = {"a": xr.Dataset({"x": 1}), "b": xr.DataTree()}
    with pytest.raises(InvalidInputError, match=r"results of `x` for the runs 'a', 'b' cannot be joined"):
        runs.join(results, {"a": {}, "b": {}}, name="x")
    trees = {"a": xr.DataTree.from_dict({"/one": None}), "b": xr.DataTree.from_dict({"/two": None})}
    with pytest.raises(InvalidInputError, match="different groups"):
        runs.join(trees, {"a": {}, "b": {}}, name="x")
