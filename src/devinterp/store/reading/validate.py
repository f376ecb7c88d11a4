"""Look at what a store says of itself before anything believes it: a store may come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numcodecs import Zstd
from zarr.abc.store import Store

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys as raw

#: Codecs that only decode bytes. Format 2 knows others, pickle among them.
_CODECS = {"bytes", "zstd", "gzip", "blosc", "crc32c", "vlen-utf8", "transpose", "sharding_indexed"}
_NUMCODECS = re.compile(r"numcodecs\.(?!.*(pickle|msgpack|json))\w+")
_FORMAT_2_CODECS = {"zstd", "gzip", "zlib", "blosc", "lz4", "vlen-utf8", "crc32", "crc32c", "shuffle", "delta"}
#: No array of ours comes near these; reading one chunk, or making the labels of one dimension, must not fill the memory.
_MAX_CHUNK_BYTES, _MAX_LABELS, _MAX_CHUNKS, _MAX_LENGTH = 2**31, 10**8, 10**7, 2**53
#: Of arrays that are read whole when a store is opened: labels, and the status of every chain.
_MAX_CHUNKS_AT_ONCE = 200_000
_MAX_NODES, _MAX_DEPTH = 100_000, 32


def inspect(store: Store) -> None:
    """Raise unless every array that a store describes can be opened and read safely.

    Only metadata are read, and labels that are strings. Nothing in a store is ever executed: no pickle, no code.

    Raises
    ------
    StoreError
        Naming the array and what is wrong with it.
    """
    nodes = raw.get_json(store, raw.METADATA)
    if nodes is None:
        if raw.get(store, raw.METADATA) is not None:
            raise StoreError(f"the store's {raw.METADATA} is damaged: it is no JSON object.")
        for path, node in _format_2(store):
            _check_format_2(path, node)
        return
    if not isinstance(nodes.get("attributes", {}), dict):
        raise StoreError("the store's attributes are damaged: they are no JSON object.")
    for path, node in _nodes(store, nodes):
        inspect_node(path, node)
        if node["node_type"] == "array" and _is_label(path, node):
            for key, what in bad_strings(store, path, node).items():
                raise StoreError(f"chunk {key} is damaged: {what}")


def inspect_node(path: str, node: Any) -> None:
    """Raise `StoreError` unless the metadata of a group or an array are sound; see `inspect`."""
    _check_path(path)
    if not isinstance(node, Mapping):
        raise StoreError(f"the metadata of {path!r} are damaged: they are no JSON object.")
    if node.get("node_type") == "array":
        try:
            _check_array(path, node)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
            raise StoreError(f"the metadata of {path!r} are damaged: {type(error).__name__}: {error}") from error
    elif node.get("node_type") != "group":
        raise StoreError(f"the metadata of {path!r} are damaged: it is neither an array nor a group.")


def bad_strings(store: Store, path: str, node: Mapping[str, Any]) -> dict[str, str]:
    """Return the chunks of an array that cannot be decoded safely, and why; only strings have such.

    The decoder allocates what the first four bytes of a chunk ask for, up to 34 GB, before it looks at the rest.
    """
    bad: dict[str, str] = {}
    if node.get("data_type") != "string":
        return bad
    shape, chunks = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    names = [codec["name"] for codec in node["codecs"]]
    if names not in (["vlen-utf8"], ["vlen-utf8", "zstd"], ["vlen-utf8", "zstd", "crc32c"]):
        return bad  # another writer's; ours are one of these
    grid = np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True)))
    keys = ["/".join([path, "c", *map(str, chunk)]) for chunk in grid]
    for key, content in zip(keys, raw.get_many(store, keys), strict=True):
        if content is None:
            continue
        try:
            packed = content[:-4] if "crc32c" in names else content
            plain = bytes(Zstd().decode(packed)) if "zstd" in names else packed
        except Exception as error:  # of many kinds
            bad[key] = str(error)
            continue
        claimed = int.from_bytes(plain[:4], "little")
        if claimed > math.prod(chunks):
            bad[key] = f"it claims {claimed:,} strings and has room for {math.prod(chunks):,}"
    return bad


def _is_label(path: str, node: Mapping[str, Any]) -> bool:
    names = node.get("dimension_names")
    return names is not None and list(names) == [path.rpartition("/")[2]]


def _nodes(store: Store, root: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
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
    """Yield the path and metadata of everything below a group, as they are in the store now.

    Raises
    ------
    StoreError
        If there is no end to it.
    """
    yield from _walk(store, path, 0, [0])


def _walk(store: Store, path: str, depth: int, count: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in raw.children(store, path):
        below = f"{path}/{name}" if path else name
        node = raw.get_json(store, f"{below}/{raw.METADATA}")
        if node is None:
            continue
        count[0] += 1
        if depth > _MAX_DEPTH or count[0] > _MAX_NODES:
            raise StoreError(f"the store has more than {_MAX_NODES} arrays and groups, or they are nested too deep.")
        yield below, node
        if node.get("node_type") == "group":
            yield from _walk(store, below, depth + 1, count)


def _check_path(path: object) -> None:
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise StoreError(f"the store names an array {path!r}: not a path inside it.")


def _check_array(path: str, node: Mapping[str, Any]) -> None:
    shape = _lengths(path, "shape", node["shape"], least=0)
    chunks = _lengths(path, "chunk_shape", node["chunk_grid"]["configuration"]["chunk_shape"], least=1)
    names = node.get("dimension_names")
    if len(shape) != len(chunks) or (names is not None and len(names) != len(shape)):
        raise StoreError(f"array {path!r} has shape {shape}, chunks {chunks} and dims {names}, which do not fit.")
    size = _item_size(node["data_type"])
    _check_codecs(path, node["codecs"], _CODECS, "name")
    _check_sizes(path, shape, chunks, size, is_label=_is_label(path, node))
    if not isinstance(node.get("attributes", {}), Mapping):
        raise StoreError(f"the attributes of {path!r} are damaged.")


def _item_size(kind: Any) -> int:
    if isinstance(kind, Mapping):
        size = kind.get("configuration", {}).get("length_bytes", 8)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"data type {str(kind)[:60]}")
        return size
    return 1 if kind in ("string", "variable_length_utf8") else np.dtype(kind).itemsize


def _check_sizes(path: str, shape: list[int], chunks: list[int], size: int, *, is_label: bool) -> None:
    # A chunk may be larger than its array, but not by much: it is decoded whole.
    if size * math.prod(chunks) > _MAX_CHUNK_BYTES:
        raise StoreError(
            f"array {path!r} has chunks of {size * math.prod(chunks):,} bytes; at most {_MAX_CHUNK_BYTES:,}."
        )
    number = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    most = _MAX_CHUNKS_AT_ONCE if is_label or schema.STATUS in path.split("/") else _MAX_CHUNKS
    if number > most:
        raise StoreError(f"array {path!r} has {number:,} chunks; at most {most:,}.")
    if is_label and shape[0] > _MAX_LABELS:
        raise StoreError(f"dimension {path!r} has {shape[0]:,} labels; at most {_MAX_LABELS:,}.")


def _lengths(path: str, what: str, value: Any, *, least: int) -> list[int]:
    if not isinstance(value, list) or len(value) > 32:
        raise StoreError(f"array {path!r} has `{what}` {str(value)[:60]!r}: no list of lengths.")
    if any(isinstance(n, bool) or not isinstance(n, int) or not least <= n <= _MAX_LENGTH for n in value):
        raise StoreError(
            f"array {path!r} has `{what}` {str(value)[:60]}: lengths are between {least} and {_MAX_LENGTH}."
        )
    return value


def _check_codecs(path: str, codecs: Any, known: set[str], key: str) -> None:
    for codec in codecs or ():
        name = codec if isinstance(codec, str) else codec[key]
        nested = {} if isinstance(codec, str) else codec.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            _check_codecs(path, nested.get(inner), known, key)
        if name not in known and not _NUMCODECS.fullmatch(name):
            raise StoreError(f"array {path!r} uses codec {name!r}; known and safe are {', '.join(sorted(known))}.")


def _format_2(store: Store) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the array metadata of a store in zarr's older format, as DevInterp 2 may have written it."""
    consolidated = raw.get_json(store, ".zmetadata")
    found = consolidated.get("metadata", {}) if consolidated else {}
    if not isinstance(found, Mapping):
        raise StoreError("the store's consolidated metadata are damaged.")
    for key, node in found.items():
        if key.rpartition("/")[2] == ".zarray":
            yield key.rpartition("/")[0], node
    for name in raw.children(store, ""):
        node = raw.get_json(store, f"{name}/.zarray")
        if node is not None:
            yield name, node


def _check_format_2(path: str, node: Mapping[str, Any]) -> None:
    _check_path(path)
    try:
        _check_codecs(
            path, [*(node.get("filters") or ()), *filter(None, [node.get("compressor")])], _FORMAT_2_CODECS, "id"
        )
        shape, chunks = (
            _lengths(path, "shape", node["shape"], least=0),
            _lengths(path, "chunks", node["chunks"], least=1),
        )
        _check_sizes(path, shape, chunks, np.dtype(node["dtype"]).itemsize, is_label=False)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StoreError(f"the metadata of {path!r} are damaged: {type(error).__name__}: {error}") from error
