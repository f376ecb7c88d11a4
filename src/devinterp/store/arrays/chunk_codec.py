"""Chunks of the arrays that this package writes, to bytes and back, without an event loop.

zarr asks its event loop for every chunk and step of a codec, which takes ten times as long as encoding and writing a small one.
A study has tens of thousands of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Zstd
from numcodecs.vlen import VLenUTF8
from zarr.abc.store import Store
from zarr.storage import LocalStore

from devinterp.errors import StoreError

#: Codecs of the arrays that this package writes, in the order in which they are applied.
_KNOWN = (["bytes", "zstd", "crc32c"], ["vlen-utf8", "zstd", "crc32c"])


def is_plain(store: Store, node: Mapping[str, Any]) -> bool:
    """Say whether chunks of an array are files that this module encodes and decodes."""
    return (
        isinstance(store, LocalStore)
        and len(node["shape"]) > 0
        and [codec["name"] for codec in node["codecs"]] in _KNOWN
        and node["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and node["chunk_grid"]["name"] == "regular"
    )


def encode(values: np.ndarray, node: Mapping[str, Any]) -> bytes:
    """Return the bytes of a whole chunk.

    Parameters
    ----------
    values : numpy.ndarray
        Of the shape of a chunk and the array's dtype, or text.
    node : mapping
        The array's metadata; it must be plain (`is_plain`).
    """
    first, zstd, _ = node["codecs"]
    if first["name"] == "bytes":
        plain = np.ascontiguousarray(values, values.dtype.newbyteorder(_order(first))).tobytes()
    else:
        plain = bytes(VLenUTF8().encode(values.astype(object).ravel()))
    options = zstd.get("configuration", {})
    packed = bytes(_zstd(options.get("level", 0), options.get("checksum", False)).encode(plain))
    return packed + int(google_crc32c.value(packed)).to_bytes(4, "little")


def decode(content: bytes | np.ndarray, node: Mapping[str, Any], dtype: np.dtype, key: str) -> np.ndarray:
    """Return the values of a chunk, flat.

    Raises
    ------
    StoreError
        If it is damaged; the message names it.
    """
    try:
        packed = content[:-4]
        if int.from_bytes(bytes(content[-4:]), "little") != google_crc32c.value(packed):
            raise ValueError("its checksum does not fit")
        plain = bytes(_zstd().decode(packed))
        number = math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
        if node["codecs"][0]["name"] == "bytes":
            return np.frombuffer(plain, dtype=dtype.newbyteorder(_order(node["codecs"][0])), count=number)
        if int.from_bytes(plain[:4], "little") > number:  # the decoder allocates what these bytes ask for
            raise ValueError("it claims more strings than it has room for")
        return np.asarray(VLenUTF8().decode(plain)).astype(dtype)
    except Exception as error:  # of many kinds
        raise StoreError(f"chunk {key} is damaged: {error}") from error


def _order(codec: Mapping[str, Any]) -> Any:
    """Return the byte order that a codec says, as numpy names it."""
    return "<" if codec.get("configuration", {}).get("endian", "little") == "little" else ">"


@lru_cache(maxsize=16)
def _zstd(level: int = 0, checksum: bool = False) -> Zstd:
    return Zstd(level=level, checksum=checksum)
