"""Tests that every analysis must pass; subclass them for your own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import dask.array as da
import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import BrokenChainsError
from devinterp.testing.trees import synthetic_tree
from devinterp.types import Analysis


class AnalysisTests:
    """Tests of an `Analysis`, run by pytest on a subclass that names it.

    Set `analysis`, and `options` if it has arguments without default; override `tree` if it reads what `synthetic_tree` lacks::

        class TestWbic(AnalysisTests):
            analysis = devinterp_analyses()[0]
    """

    #: The analysis under test.
    analysis: ClassVar[Analysis]
    #: Options that `compute` is called with.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Relative tolerance between differently chunked inputs, in units of the largest value of each variable.
    tolerance: ClassVar[float] = 1e-5
    #: Set to False for an analysis that has a use for chains that diverged.
    refuses_broken_chains: ClassVar[bool] = True

    def tree(self, **options: Any) -> xr.DataTree:
        """Return a run that the analysis can answer; takes the options of `synthetic_tree`."""
        return synthetic_tree(**{"num_restrictions": 2, "ragged": True, **options})

    def compute(self, tree: xr.DataTree) -> xr.DataTree:
        """Return the result, as a tree whatever its type."""
        result = self.analysis.compute(tree, **self.options)
        if isinstance(result, xr.DataArray):
            result = result.to_dataset(name="result")
        return xr.DataTree(result) if isinstance(result, xr.Dataset) else result

    def test_documents_its_parameters(self) -> None:
        """A user sees the docstring and the signature, in Python and on the command line."""
        text = inspect.getdoc(self.analysis.compute) or ""
        assert text, "an analysis needs a docstring: it is the documentation of the method and of the command"
        parameters = list(inspect.signature(self.analysis.compute).parameters.values())
        assert parameters, "an analysis takes the tree as its first parameter"
        for parameter in parameters[1:]:
            assert parameter.annotation is not parameter.empty, f"`{parameter.name}` needs a type: commands read it"
            assert parameter.name in text, f"`{parameter.name}` is not described in the docstring"

    def test_its_requirements_are_in_the_tree(self) -> None:
        """The paths in `requires` exist in a run's tree."""
        missing = schema.missing(self.tree(), self.analysis.requires)
        assert not missing, f"`requires` names what no run has: {missing}"

    def test_computes_nothing_when_called(self) -> None:
        """A lazy tree gives a lazy result: no loss is read before the result is computed."""
        tree = self.tree(chunks={})
        for path in schema.variable_paths(tree):
            if path.endswith("/loss"):
                tree[path] = xr.DataArray(_unreadable(tree[path].data), dims=tree[path].dims)
        nodes = self.compute(tree).subtree
        eager = [f"{node.path}: {name}" for node in nodes for name, v in node.data_vars.items() if v.chunks is None]
        numbers = [name for name in eager if not name.endswith("ids")]
        assert not numbers, f"computed although the tree is lazy: {numbers}"

    def test_chunks_change_nothing(self) -> None:
        """The result does not depend on how the tree is chunked, or whether it is."""
        expected = self.compute(self.tree())
        for chunks in ({}, {"restriction": 1, "chain": 1, "draw": 7, "step": 9, "sequence": 3, "position": 3}):
            _assert_close(self.compute(self.tree(chunks=chunks)).compute(), expected, self.tolerance)

    def test_leaves_the_tree_as_it_was(self) -> None:
        """An analysis changes neither data nor attributes of the tree it gets."""
        tree = self.tree()
        self.compute(tree)
        xr.testing.assert_identical(tree, self.tree())

    def test_refuses_broken_chains(self) -> None:
        """A chain that diverged is never silently left out of an average."""
        if not self.refuses_broken_chains:
            return
        try:
            self.compute(self.tree(diverged=[(0, 1)]))
        except BrokenChainsError:
            return
        raise AssertionError("a tree with a diverged chain must raise BrokenChainsError, not give plausible numbers")

    def test_result_can_be_stored(self, tmp_path: Path) -> None:
        """The result goes to Zarr and comes back."""
        result = self.compute(self.tree(chunks={}))
        result.to_zarr(tmp_path / "result.zarr", consolidated=False)
        with xr.open_datatree(tmp_path / "result.zarr", engine="zarr", consolidated=False) as again:
            _assert_close(again.compute(), result.compute(), self.tolerance)


def _unreadable(array: da.Array) -> da.Array:
    def read(block: np.ndarray) -> np.ndarray:
        raise AssertionError("a loss was read although only a lazy result was asked for")

    lazy: da.Array = da.map_blocks(read, array, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype))
    return lazy


def _assert_close(result: xr.DataTree, expected: xr.DataTree, tolerance: float) -> None:
    assert {node.path for node in result.subtree} == {node.path for node in expected.subtree}
    for node in expected.subtree:
        assert set(result[node.path].data_vars) == set(node.data_vars)
        for name, variable in node.data_vars.items():
            got, exact = result[node.path][str(name)].to_numpy(), variable.to_numpy()
            if exact.dtype.kind != "f":
                np.testing.assert_array_equal(got, exact, err_msg=str(name))
                continue
            scale = float(np.nanmax(np.abs(exact), initial=0.0))
            np.testing.assert_allclose(got, exact, rtol=tolerance, atol=tolerance * scale, err_msg=str(name))
