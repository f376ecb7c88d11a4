"""The tree of a run: an `xarray.DataTree` that says where the names of DevInterp 2's stores are now."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp import schema
from devinterp.errors import MissingDataError
from devinterp.flat_layout import where_now


class RunTree(xr.DataTree):  # type: ignore[no-untyped-call]
    """An `xarray.DataTree` as `devinterp.sample` and `devinterp.open` return it."""

    __slots__ = ()

    @classmethod
    def of(cls, tree: xr.DataTree) -> xr.DataTree:
        """Return a tree as one of this class, without copying; a tree of several runs as it is."""
        if schema.is_run(tree) and type(tree) is xr.DataTree:
            # Building a second tree of a large store takes as long as opening it.
            tree.__class__ = cls
        return tree

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError as error:
            raise _said(self, key, error) from None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            sentence = None if name.startswith("_") else _where(self, name)
            if sentence is None:
                raise
            raise AttributeError(sentence, name=name, obj=self) from error

    @property
    def dataset(self) -> Any:
        """The variables of this node, which say where names of DevInterp 2's stores are now."""
        view: Any = xr.DataTree.dataset.fget(self)  # type: ignore[attr-defined]
        view.__class__ = _View
        return view

    @dataset.setter
    def dataset(self, data: xr.Dataset | None) -> None:
        xr.DataTree.dataset.fset(self, data)  # type: ignore[attr-defined]

    ds = dataset

    def squeeze(self, dim: Any = None, *, drop: bool = False) -> xr.DataTree:
        """Return the tree without dims of length one, as `xarray.Dataset.squeeze` does for a dataset."""
        dims = None if dim is None else {dim} if isinstance(dim, str) else set(dim)

        def one(node: xr.Dataset) -> xr.Dataset:
            return node.squeeze(
                [d for d, size in node.sizes.items() if size == 1 and (dims is None or d in dims)], drop=drop
            )

        groups = {each.relative_to(self): one(each.to_dataset(inherit=False)) for each in self.subtree}
        return RunTree.of(xr.DataTree.from_dict(groups))


class _View(type(xr.DataTree().dataset)):  # type: ignore[misc]
    """The view of a node's variables that xarray gives, with the message of `RunTree`."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError as error:
            raise _said(None, key, error) from None


def _where(tree: xr.DataTree | None, key: Any) -> str | None:
    return where_now(tree, key) if isinstance(key, str) else None


def _said(tree: xr.DataTree | None, key: Any, error: KeyError) -> KeyError:
    sentence = _where(tree, key)
    return error if sentence is None else MissingDataError(sentence)
