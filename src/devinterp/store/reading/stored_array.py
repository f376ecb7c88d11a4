"""One array of a store, read when it is asked for: its chunks as files where the store is a directory, else through zarr.

zarr asks its event loop for every chunk, which takes longer than reading one. A study has tens of thousands of small ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import Any, final

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numcodecs.vlen import VLenUTF8
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import Store
from zarr.storage import LocalStore

from devinterp.errors import StoreError
from devinterp.store import keys

#: Codecs of the arrays that this package writes, in the order in which they were applied.
_KNOWN = (["bytes", "zstd", "crc32c"], ["vlen-utf8", "zstd", "crc32c"])
#: Of larger arrays only the chunks that are asked for are read, through zarr.
_MOST_BYTES = 64 * 2**20


@final
class StoredArray(BackendArray):
    """An array of a store, as xarray reads arrays lazily.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    path : str
        Of the array.
    node : mapping
        Its metadata, validated (`devinterp.store.reading.validate.inspect_node`).
    dtype : numpy.dtype
        What its values are.
    fill_value : object
        The value of chunks that are not there.
    """

    def __init__(self, store: Store, path: str, node: Mapping[str, Any], dtype: np.dtype, fill_value: Any) -> None:
        self._store, self._path, self._node, self._fill_value = store, path, node, fill_value
        self.shape, self.dtype = tuple(node["shape"]), dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        if is_plain(self._store, self._node) and math.prod(self.shape) * self.dtype.itemsize <= _MOST_BYTES:
            values = self._whole()
            for axis in reversed(range(len(key))):  # from the last, so that numbers do not shift those before
                values = values[(slice(None),) * axis + (key[axis],)]
            return values
        array: Any = zarr.open_array(self._store, path=self._path, mode="r", zarr_format=3)
        return array[key] if all(isinstance(each, int | slice) for each in key) else array.oindex[key]

    def _whole(self) -> np.ndarray:
        assert isinstance(self._store, LocalStore)
        chunks = tuple(self._node["chunk_grid"]["configuration"]["chunk_shape"])
        grid = [range(-(-size // length)) for size, length in zip(self.shape, chunks, strict=True)]
        values = np.full(self.shape, self._fill_value, dtype=self.dtype)
        folder = f"{self._store.root}/{self._path}/c/"
        for place in product(*grid):
            name = "/".join(map(str, place))
            try:
                with open(folder + name, "rb", buffering=0) as file:  # noqa: PTH123  # paths as objects take as long as reading
                    content = file.read()
            except FileNotFoundError:
                continue
            target = values[tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, chunks, strict=True))]
            decoded = decode(content, self._node, self.dtype, f"{self._path}/c/{name}").reshape(chunks)
            is_whole = target.shape == chunks
            target[...] = decoded if is_whole else decoded[tuple(slice(0, size) for size in target.shape)]
        return values


def is_plain(store: Store, node: Mapping[str, Any]) -> bool:
    """Say whether chunks of an array are files that this module decodes."""
    return (
        isinstance(store, LocalStore)
        and len(node["shape"]) > 0
        and [codec["name"] for codec in node["codecs"]] in _KNOWN
        and node["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and node["chunk_grid"]["name"] == "regular"
    )


def decode(content: bytes, node: Mapping[str, Any], dtype: np.dtype, key: str) -> np.ndarray:
    """Return the values of a chunk.

    Raises
    ------
    StoreError
        If it is damaged; the message names it.
    """
    try:
        if int.from_bytes(content[-4:], "little") != google_crc32c.value(content[:-4]):
            raise ValueError("its checksum does not fit")
        plain = bytes(_zstd().decode(content[:-4]))
        number = math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
        if node["codecs"][0]["name"] == "bytes":
            order: Any = "<" if node["codecs"][0].get("configuration", {}).get("endian", "little") == "little" else ">"
            return np.frombuffer(plain, dtype=dtype.newbyteorder(order), count=number)
        if int.from_bytes(plain[:4], "little") > number:  # the decoder allocates what these bytes ask for
            raise ValueError("it claims more strings than it has room for")
        return np.asarray(VLenUTF8().decode(plain)).astype(dtype)
    except Exception as error:  # of many kinds
        raise StoreError(f"chunk {key} is damaged: {error}") from error


@lru_cache(maxsize=1)
def _zstd() -> Zstd:
    return Zstd()


def chunk_keys(path: str, node: Mapping[str, Any]) -> list[str]:
    """Return the keys of all chunks of an array."""
    lengths = node["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [range(-(-size // length)) for size, length in zip(node["shape"], lengths, strict=True)]
    return ["/".join([path, "c", *map(str, place)]) for place in product(*grid)]


def read_chunks(store: Store, path: str, node: Mapping[str, Any]) -> tuple[bytes | None, ...]:
    """Return the bytes of all chunks of an array."""
    return tuple(keys.get_many(store, chunk_keys(path, node)))
