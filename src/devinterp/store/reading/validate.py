"""Validate the metadata of a store before anything is read by them: a store may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numcodecs import Zstd
from zarr.abc.store import Store

from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.reading.array_metadata import check_array, check_format_2_array, check_path, is_label

#: Far more than a run has: a store that claims more would keep its reader busy for ever.
_MAX_NODES, _MAX_DEPTH = 100_000, 32


def inspect(store: Store) -> None:
    """Raise unless every array of a store can be opened and read safely.

    Reads only metadata, and labels that are strings. Nothing in a store is ever executed: no pickle, no code.

    Raises
    ------
    StoreError
        Naming the array and what is wrong with it.
    """
    root = keys.get_json(store, keys.METADATA)
    if root is None:
        if keys.get(store, keys.METADATA) is not None:
            raise StoreError(f"the store's {keys.METADATA} is damaged: it is no JSON object.")
        for path, node in _format_2_arrays(store):
            check_format_2_array(path, node)
        return
    if not isinstance(root.get("attributes", {}), dict):
        raise StoreError("the store's attributes are damaged: they are no JSON object.")
    for path, node in _nodes(store, root):
        inspect_node(path, node)
        if node["node_type"] == "array" and is_label(path, node):
            for key, reason in bad_strings(store, path, node).items():
                raise StoreError(f"chunk {key} is damaged: {reason}")


def inspect_run(store: Store, group: str) -> None:
    """Raise `StoreError` unless every array of one run of a store can be opened and read safely; see `inspect`."""
    root = keys.get_json(store, keys.metadata_key(group)) or {}
    nodes = (root.get("consolidated_metadata") or {}).get("metadata")
    pairs = list(nodes.items()) if isinstance(nodes, Mapping) else list(walk(store, group))
    for below, node in pairs:
        path = f"{group}/{below}" if isinstance(nodes, Mapping) else below
        inspect_node(path, node)
        if node["node_type"] == "array" and is_label(below, node):
            for key, reason in bad_strings(store, path, node).items():
                raise StoreError(f"chunk {key} is damaged: {reason}")


def inspect_node(path: str, node: Any) -> None:
    """Raise `StoreError` unless a group or an array with these metadata can be opened and read safely; see `inspect`."""
    check_path(path)
    if not isinstance(node, Mapping):
        raise StoreError(f"the metadata of {path!r} are damaged: they are no JSON object.")
    if node.get("node_type") == "array":
        try:
            check_array(path, node)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
            raise StoreError(f"the metadata of {path!r} are damaged: {type(error).__name__}: {error}") from error
    elif node.get("node_type") != "group":
        raise StoreError(f"the metadata of {path!r} are damaged: it is neither an array nor a group.")


def bad_strings(
    store: Store, path: str, node: Mapping[str, Any], chunks: Collection[tuple[int, ...]] | None = None
) -> dict[str, str]:
    """Return the chunks of an array of strings that cannot be decoded safely, and why; none for other arrays.

    All chunks are looked at, or those given. zarr's decoder of strings allocates what the first four bytes of a chunk ask for,
    up to 34 GB, before it reads the rest.
    """
    bad: dict[str, str] = {}
    if node.get("data_type") != "string":
        return bad
    shape, of_chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = [codec["name"] for codec in node["codecs"]]
    if codecs not in (["vlen-utf8"], ["vlen-utf8", "zstd"], ["vlen-utf8", "zstd", "crc32c"]):
        return bad  # not written by this package
    grid = np.ndindex(*(-(-n // c) for n, c in zip(shape, of_chunk, strict=True))) if chunks is None else chunks
    chunk_keys = ["/".join([path, "c", *map(str, chunk)]) for chunk in grid]
    for key, content in zip(chunk_keys, keys.get_many(store, chunk_keys), strict=True):
        if content is None:
            continue
        try:
            packed = content[:-4] if "crc32c" in codecs else content
            plain = bytes(Zstd().decode(packed)) if "zstd" in codecs else packed
        except Exception as error:  # of many kinds
            bad[key] = str(error)
            continue
        claimed = int.from_bytes(plain[:4], "little")
        if claimed > math.prod(of_chunk):
            bad[key] = f"it claims {claimed:,} strings and has room for {math.prod(of_chunk):,}"
    return bad


def _nodes(store: Store, root: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield path and metadata of everything in a store: consolidated ones, where its root has them."""
    consolidated = root.get("consolidated_metadata")
    if consolidated is None:
        yield from walk(store)
        return
    if not isinstance(consolidated, Mapping) or not isinstance(consolidated.get("metadata"), Mapping):
        raise StoreError("the store's consolidated metadata are damaged.")
    if len(consolidated["metadata"]) > _MAX_NODES:
        raise StoreError(f"the store claims {len(consolidated['metadata'])} arrays and groups.")
    yield from consolidated["metadata"].items()


def walk(store: Store, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and metadata of everything below a group, bypassing consolidated metadata.

    Raises
    ------
    StoreError
        If there is too much of it.
    """
    for number, (below, node) in enumerate(_walk(store, path, 0), 1):
        if number > _MAX_NODES:
            raise StoreError(f"the store has more than {_MAX_NODES} arrays and groups.")
        yield below, node


def _walk(store: Store, path: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in keys.children(store, path):
        below = f"{path}/{name}" if path else name
        node = keys.get_json(store, keys.metadata_key(below))
        if node is None:
            continue
        if depth > _MAX_DEPTH:
            raise StoreError(f"the store's groups are nested more than {_MAX_DEPTH} deep: {below!r}.")
        yield below, node
        if node.get("node_type") == "group":
            yield from _walk(store, below, depth + 1)


def _format_2_arrays(store: Store) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and metadata of the arrays of a store in zarr's format 2, which DevInterp 2 may have written."""
    consolidated = keys.get_json(store, ".zmetadata")
    nodes = consolidated.get("metadata", {}) if consolidated else {}
    if not isinstance(nodes, Mapping):
        raise StoreError("the store's consolidated metadata are damaged.")
    for key, node in nodes.items():
        if key.rpartition("/")[2] == ".zarray":
            yield key.rpartition("/")[0], node
    for name in keys.children(store, ""):
        node = keys.get_json(store, f"{name}/.zarray")
        if node is not None:
            yield name, node
