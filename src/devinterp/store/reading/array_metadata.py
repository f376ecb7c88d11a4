"""What the metadata of one array may say: shapes, chunks and codecs that can be read safely."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from devinterp import schema
from devinterp.errors import StoreError

#: Codecs that only decode bytes. Zarr's format 2 has others, pickle among them.
_CODECS = {"bytes", "zstd", "gzip", "blosc", "crc32c", "vlen-utf8", "transpose", "sharding_indexed"}
_NUMCODECS = re.compile(r"numcodecs\.(?!.*(pickle|msgpack|json))\w+")
_FORMAT_2_CODECS = {"zstd", "gzip", "zlib", "blosc", "lz4", "vlen-utf8", "crc32", "crc32c", "shuffle", "delta"}
#: Far above any array of a run: reading one chunk, or the labels of one dimension, must not fill the memory.
_MAX_CHUNK_BYTES, _MAX_LABELS, _MAX_CHUNKS, _MAX_LENGTH = 2**31, 10**8, 10**7, 2**53
#: Limit for arrays that are read completely when a store is opened: labels, and the status of every chain.
_MAX_CHUNKS_AT_ONCE = 200_000


def is_label(path: str, node: Mapping[str, Any]) -> bool:
    """Say whether an array holds the labels of a dimension: it is named as its only dim."""
    names = node.get("dimension_names")
    return names is not None and list(names) == [path.rpartition("/")[2]]


def check_path(path: object) -> None:
    """Raise `StoreError` unless a path leads to somewhere in the store."""
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise StoreError(f"the store names an array {path!r}: not a path inside it.")


def check_array(path: str, node: Mapping[str, Any]) -> None:
    """Raise `StoreError`, or any error of a malformed mapping, unless an array can be opened and read safely."""
    shape = _lengths(path, "shape", node["shape"], least=0)
    chunks = _lengths(path, "chunk_shape", node["chunk_grid"]["configuration"]["chunk_shape"], least=1)
    names = node.get("dimension_names")
    if len(shape) != len(chunks) or (names is not None and len(names) != len(shape)):
        raise StoreError(f"array {path!r} has shape {shape}, chunks {chunks} and dims {names}, which do not fit.")
    itemsize = _item_size(node["data_type"])
    _check_codecs(path, node["codecs"], _CODECS, "name")
    _check_sizes(path, shape, chunks, itemsize, is_label=is_label(path, node))
    if not isinstance(node.get("attributes", {}), Mapping):
        raise StoreError(f"the attributes of {path!r} are damaged.")


def _item_size(data_type: Any) -> int:
    if isinstance(data_type, Mapping):
        size = data_type.get("configuration", {}).get("length_bytes", 8)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"data type {str(data_type)[:60]}")
        return size
    return 1 if data_type in ("string", "variable_length_utf8") else np.dtype(data_type).itemsize


def _check_sizes(path: str, shape: list[int], chunks: list[int], itemsize: int, *, is_label: bool) -> None:
    # A chunk is decoded completely, also where it is larger than its array.
    if itemsize * math.prod(chunks) > _MAX_CHUNK_BYTES:
        raise StoreError(
            f"array {path!r} has chunks of {itemsize * math.prod(chunks):,} bytes; at most {_MAX_CHUNK_BYTES:,}."
        )
    num_chunks = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    max_chunks = _MAX_CHUNKS_AT_ONCE if is_label or schema.STATUS in path.split("/") else _MAX_CHUNKS
    if num_chunks > max_chunks:
        raise StoreError(f"array {path!r} has {num_chunks:,} chunks; at most {max_chunks:,}.")
    if is_label and shape[0] > _MAX_LABELS:
        raise StoreError(f"dimension {path!r} has {shape[0]:,} labels; at most {_MAX_LABELS:,}.")


def _lengths(path: str, name: str, value: Any, *, least: int) -> list[int]:
    if not isinstance(value, list) or len(value) > 32:
        raise StoreError(f"array {path!r} has `{name}` {str(value)[:60]!r}: no list of lengths.")
    if any(isinstance(n, bool) or not isinstance(n, int) or not least <= n <= _MAX_LENGTH for n in value):
        raise StoreError(
            f"array {path!r} has `{name}` {str(value)[:60]}: lengths are between {least} and {_MAX_LENGTH}."
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


def check_format_2_array(path: str, node: Mapping[str, Any]) -> None:
    """Raise `StoreError` unless an array in zarr's format 2 can be opened and read safely."""
    check_path(path)
    try:
        codecs = [*(node.get("filters") or ()), *filter(None, [node.get("compressor")])]
        _check_codecs(path, codecs, _FORMAT_2_CODECS, "id")
        shape = _lengths(path, "shape", node["shape"], least=0)
        chunks = _lengths(path, "chunks", node["chunks"], least=1)
        _check_sizes(path, shape, chunks, np.dtype(node["dtype"]).itemsize, is_label=False)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StoreError(f"the metadata of {path!r} are damaged: {type(error).__name__}: {error}") from error
