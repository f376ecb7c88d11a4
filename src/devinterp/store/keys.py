"""Read and write single keys of a store, as bytes or JSON: for locks, and attributes that must change in one write."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard, cast

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync  # the only way to ask a store object a question from synchronous code
from zarr.storage import FsspecStore, LocalStore

#: Last part of the key that holds the metadata and attributes of a group or an array.
METADATA = "zarr.json"
#: Metadata of a group without attributes.
NEW_GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group"}
#: Endings of the unfinished files that a killed writer leaves in a directory; nobody reads them.
_LEFTOVERS = (".partial", ".tmp")


def metadata_key(path: str) -> str:
    """Return the key that holds the metadata and attributes of a group or an array, of the root for an empty path."""
    return f"{path}/{METADATA}" if path else METADATA


def at_once(ask: Callable[..., Awaitable[Any]], arguments: Iterable[Any]) -> list[Any]:
    """Return what an asynchronous function answers to each argument, asked of all at the same time."""

    async def answers() -> list[Any]:
        return await asyncio.gather(*map(ask, arguments))

    return sync(answers())


def get(store: Store, key: str) -> bytes | None:
    """Return the bytes of a key, or None where there is no such key."""
    if isinstance(store, LocalStore):  # an event loop takes longer than reading a small file
        return _read_file(store.root / key)
    value = sync(store.get(key, default_buffer_prototype()))
    return None if value is None else value.to_bytes()


def get_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Return the bytes of several keys, requested at the same time."""
    if isinstance(store, LocalStore):
        return [_read_file(store.root / key) for key in keys]
    values = at_once(lambda key: store.get(key, default_buffer_prototype()), keys)
    return [None if value is None else value.to_bytes() for value in values]


def _read_file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def is_directory(store: Store) -> TypeGuard[LocalStore]:
    """Say whether keys may be written as files: what a subclass does with a key is its own."""
    return type(store) is LocalStore and not store.read_only


def write_file(path: str, content: bytes) -> None:
    """Write a file, whole or not at all; directories that are not there are made."""
    partial = f"{path}.{os.urandom(8).hex()}.partial"  # here and below: paths as objects take as long as writing
    try:
        try:
            file = open(partial, "wb", buffering=0)  # noqa: PTH123, SIM115
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            file = open(partial, "wb", buffering=0)  # noqa: PTH123, SIM115
        with file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.remove(partial)  # noqa: PTH107
        raise


def put(store: Store, key: str, value: bytes) -> None:
    """Set a key, replacing its value in one write."""
    if is_directory(store):
        write_file(f"{store.root}/{key}", value)
        return
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def put_many(store: Store, values: Mapping[str, bytes]) -> None:
    """Set several keys, at the same time."""
    if is_directory(store):
        for key, value in values.items():
            write_file(f"{store.root}/{key}", value)
        return
    to_buffer = default_buffer_prototype().buffer.from_bytes
    at_once(lambda key: store.set(key, to_buffer(values[key])), values)


def put_new(store: Store, key: str, value: bytes) -> None:
    """Set a key unless it exists, by a conditional write where the store has one: then only one of several callers succeeds.

    Read the key afterwards to learn whether it was this one.
    """
    if isinstance(store, FsspecStore):
        sync(_create(store, key, value))
    else:
        sync(store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value)))


async def _create(store: FsspecStore, key: str, value: bytes) -> None:
    path = f"{store.path}/{key}" if store.path else key
    try:
        # S3 (If-None-Match), local files and memory support exclusive creation.
        await cast("Any", store.fs)._pipe_file(path, value, mode="create")
    except FileExistsError:
        pass
    except (TypeError, NotImplementedError, ValueError):  # not supported here: the next best is to look first
        await store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value))


def delete(store: Store, key: str) -> None:
    """Remove a key, if it exists."""
    sync(store.delete(key))


def delete_below(store: Store, prefix: str) -> None:
    """Remove every key below a prefix."""
    sync(store.delete_dir(prefix))


def list_keys(store: Store, prefix: str = "") -> list[str]:
    """Return all keys below a prefix."""

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    return sync(collect())


def children(store: Store, group: str) -> list[str]:
    """Return the names directly below a group."""
    if isinstance(store, LocalStore):
        try:
            return [path.name for path in (store.root / group).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def collect() -> list[str]:
        return [name async for name in store.list_dir(group)]

    return sync(collect())


def contents(store: Store) -> dict[str, bytes]:
    """Return the bytes of every key."""
    names = list_keys(store)
    return {name: value for name, value in zip(names, get_many(store, names), strict=True) if value is not None}


def sizes(store: Store) -> dict[str, int]:
    """Return the size in bytes of everything in a store, by key."""

    async def collect() -> dict[str, int]:
        return {key: await store.getsize(key) async for key in store.list()}

    return sync(collect())


def get_json(store: Store, key: str) -> dict[str, Any] | None:
    """Return the JSON object that a key holds, or None where there is no such key, or no such object in it."""
    return _object(get(store, key))


def get_jsons(store: Store, keys: Sequence[str]) -> list[dict[str, Any] | None]:
    """Return what `get_json` does of several keys, requested at the same time."""
    return [_object(content) for content in get_many(store, keys)]


def _object(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def put_json(store: Store, key: str, value: Mapping[str, Any]) -> None:
    """Set a key to a JSON object."""
    put(store, key, json.dumps(value).encode())


def get_attrs(store: Store, group: str) -> dict[str, Any]:
    """Return the attributes of a group or an array, bypassing consolidated metadata; empty where there is no such node."""
    attrs = (get_json(store, metadata_key(group)) or {}).get("attributes")
    return attrs if isinstance(attrs, dict) else {}


def get_first_attrs(store: Store) -> dict[str, Any]:
    """Return the attributes of the root, without reading the consolidated metadata after them, which may be large."""
    content = get(store, METADATA)
    if content is None:
        return {}
    head, separator, _ = content.partition(b', "consolidated_metadata"')
    try:
        value = json.loads(head + b"}" if separator else head)
    except (ValueError, RecursionError):
        return get_attrs(store, "")
    attrs = value.get("attributes") if isinstance(value, dict) else None
    return attrs if isinstance(attrs, dict) else {}


def make_groups(store: Store, paths: Collection[str]) -> None:
    """Make groups where there is no node; another process may make them at the same time."""
    found = get_many(store, [metadata_key(path) for path in paths])
    for path, content in zip(paths, found, strict=True):
        if content is None:
            put_new(store, metadata_key(path), json.dumps(NEW_GROUP).encode())


def update_attrs(store: Store, group: str, attrs: Mapping[str, Any]) -> None:
    """Change some attributes of a group or an array in one write, keeping the rest of its metadata; makes a new group."""
    update_attrs_of(store, {group: attrs})


def update_attrs_of(store: Store, attrs: Mapping[str, Mapping[str, Any]]) -> None:
    """Do what `update_attrs` does for several groups or arrays, given their attributes by path, at the same time."""
    found = get_jsons(store, [metadata_key(path) for path in attrs])
    changed: dict[str, bytes] = {}
    for (path, new), metadata in zip(attrs.items(), found, strict=True):
        node = metadata or NEW_GROUP
        node = {**node, "attributes": {**(node.get("attributes") or {}), **new}}
        changed[metadata_key(path)] = json.dumps(node).encode()
    put_many(store, changed)


def remove_leftovers(store: Store) -> None:
    """Remove the unfinished files of a killed writer from a directory; call it only while nobody else writes."""
    if isinstance(store, LocalStore):
        for suffix in _LEFTOVERS:
            for path in store.root.rglob(f"*{suffix}"):
                path.unlink(missing_ok=True)


def is_leftover(key: str) -> bool:
    """Say whether a key is an unfinished file of a killed writer, or of `devinterp.store.location.check_writable`."""
    name = key.rpartition("/")[2]
    return name.endswith(_LEFTOVERS) or name.startswith(".devinterp-")
