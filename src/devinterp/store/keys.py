"""Bytes and JSON of a store by key, for what is no array: locks, marks, attributes that must change at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync  # the only way to ask a store object a question from synchronous code
from zarr.storage import FsspecStore, LocalStore

#: Name of the object that holds the metadata and attributes of a group or an array.
METADATA = "zarr.json"
#: What a writer killed at the wrong instant leaves in a directory; nobody reads it.
_LEFTOVERS = (".partial", ".tmp")


def metadata_key(path: str) -> str:
    """Return the key that holds the metadata and attributes of a group or an array, of the root for an empty path."""
    return f"{path}/{METADATA}" if path else METADATA


def get(store: Store, key: str) -> bytes | None:
    """Return the bytes of a key, or None where there is none."""
    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def get_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Return the bytes of several keys, asked for at once."""

    async def collect() -> list[Any]:
        return await asyncio.gather(*(store.get(key, default_buffer_prototype()) for key in keys))

    return [None if found is None else found.to_bytes() for found in sync(collect())]


def put(store: Store, key: str, value: bytes) -> None:
    """Set a key, replacing at once what it held."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def put_new(store: Store, key: str, value: bytes) -> None:
    """Set a key unless it is there; conditionally where the store can, so that of several callers one succeeds.

    Whether this call did is told by reading the key.
    """
    if isinstance(store, FsspecStore):
        sync(_create(store, key, value))
    else:
        sync(store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value)))


async def _create(store: FsspecStore, key: str, value: bytes) -> None:
    path = f"{store.path}/{key}" if store.path else key
    try:
        # S3 (If-None-Match), local files and memory know exclusive creation.
        await cast("Any", store.fs)._pipe_file(path, value, mode="create")
    except FileExistsError:
        pass
    except (TypeError, NotImplementedError, ValueError):  # this file system does not: the next best is to look first
        await store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value))


def delete(store: Store, key: str) -> None:
    """Remove a key, if it is there."""
    sync(store.delete(key))


def delete_below(store: Store, prefix: str) -> None:
    """Remove everything whose key is below a prefix."""
    sync(store.delete_dir(prefix))


def list_keys(store: Store, prefix: str = "") -> list[str]:
    """Return all keys below a prefix."""

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    return sync(collect())


def children(store: Store, group: str) -> list[str]:
    """Return the names of what lies directly below a group."""

    async def collect() -> list[str]:
        return [name async for name in store.list_dir(group)]

    return sync(collect())


def sizes(store: Store) -> dict[str, int]:
    """Return the size in bytes of everything in a store, by key."""

    async def collect() -> dict[str, int]:
        return {key: await store.getsize(key) async for key in store.list()}

    return sync(collect())


def get_json(store: Store, key: str) -> dict[str, Any] | None:
    """Return a JSON object, or None where there is none that can be read."""
    found = get(store, key)
    if found is None:
        return None
    try:
        value = json.loads(found)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def put_json(store: Store, key: str, value: Mapping[str, Any]) -> None:
    """Set a key to a JSON object."""
    put(store, key, json.dumps(value).encode())


def get_attrs(store: Store, group: str) -> dict[str, Any]:
    """Return the attributes of a group or an array, whatever consolidated metadata say; empty where there is none."""
    found = get_json(store, metadata_key(group)) or {}
    attrs = found.get("attributes")
    return attrs if isinstance(attrs, dict) else {}


def update_attrs(store: Store, group: str, attrs: Mapping[str, Any]) -> None:
    """Change attributes of a group or an array in one write, keeping its metadata (consolidated ones included)."""
    found = get_json(store, metadata_key(group)) or {"zarr_format": 3, "node_type": "group"}
    put_json(store, metadata_key(group), {**found, "attributes": {**(found.get("attributes") or {}), **attrs}})


def sweep(store: Store) -> None:
    """Remove unfinished files of a killed writer from a directory; call it only while nobody else writes."""
    if isinstance(store, LocalStore):
        for suffix in _LEFTOVERS:
            for path in store.root.rglob(f"*{suffix}"):
                path.unlink(missing_ok=True)


def is_leftover(key: str) -> bool:
    """Say whether a key is what a killed writer leaves, or the probe of `devinterp.store.location.check_writable`."""
    name = key.rpartition("/")[2]
    return name.endswith(_LEFTOVERS) or name.startswith(".devinterp-")
