"""Find the zarr store at a path or URL, and make stores in memory or in a temporary directory."""

from __future__ import annotations

import os
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from zarr.abc.store import Store
from zarr.core.sync import sync  # the only way to ask a store object a question from synchronous code
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from devinterp import optional
from devinterp.errors import InvalidInputError, StoreError

#: What `sample(output_path=)` and `devinterp.open` accept.
StoreLike: TypeAlias = str | os.PathLike[str] | Store
#: Schemes of URLs that s3fs opens.
_S3 = ("s3", "s3a")


def is_url(location: StoreLike) -> bool:
    """Say whether a location is a URL for fsspec rather than a path or a store object."""
    return isinstance(location, str) and "://" in location


def describe(location: StoreLike) -> str:
    """Return the name of a location in messages."""
    return str(location) if isinstance(location, (Store, str)) else os.fspath(location)


def resolve(location: StoreLike, *, read_only: bool = False, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Return the zarr store at a location.

    Parameters
    ----------
    location : str, path or zarr.abc.store.Store
        A path, a URL such as ``"s3://bucket/run.zarr"``, or a store object, which is returned as it is.
    read_only : bool, default: False
        Whether writing through the result must fail.
    storage_options : mapping, optional
        Passed to fsspec; only for URLs.

    Raises
    ------
    InvalidInputError
        If `location` is of another type, or `storage_options` are given for something that is not a URL.
    MissingPackageError
        If the package for a kind of storage is not installed.
    StoreError
        If a path is a file, or lies in a directory that cannot be made.
    """
    if storage_options and not is_url(location):
        raise InvalidInputError(f"`storage_options` are for URLs such as 's3://...'; got {describe(location)!r}.")
    if isinstance(location, Store):
        return location
    if isinstance(location, str) and location.startswith("file://"):
        # LocalStore replaces files atomically and creates keys exclusively, which fsspec does not promise.
        location = urllib.request.url2pathname(urllib.parse.urlsplit(location).path)
    if is_url(location):
        return _at_url(str(location), read_only, dict(storage_options or {}))
    if not isinstance(location, (str, os.PathLike)):
        raise InvalidInputError(
            f"a store (`output_path`, or what is opened) is a path, a URL or a zarr store; got {type(location).__name__}."
        )
    path = Path(location).expanduser()
    if path.is_file():
        if path.suffix == ".zip" and read_only:
            return sync(ZipStore.open(path, read_only=True))
        raise StoreError(f"{path} is a file; a store is a directory: choose another path.")
    if not read_only:
        check_writable(path)
    return LocalStore(path, read_only=read_only)


def _at_url(url: str, read_only: bool, options: dict[str, Any]) -> Store:
    """Return the store at a URL; what fsspec lacks for it is said with the command that installs it."""
    scheme = url.partition("://")[0]
    known = optional.require("fsspec.registry", needed_by=f"a store at {url}").known_implementations
    if scheme in _S3:
        # To fetch large files in parts, s3fs asks for the size of every file before it reads it, and lists what is missing.
        options = {"max_concurrency": 1, **options}
    try:
        return FsspecStore.from_url(url, options, read_only=read_only)
    except ImportError as error:
        if scheme not in known:
            raise
        package = str(known[scheme]["class"]).partition(".")[0]
        raise optional.missing(package, needed_by=f"a store at {url}") from error
    except ValueError as error:
        if scheme in known:
            raise
        raise InvalidInputError(
            f"{url!r} is of no kind that fsspec knows; known: {', '.join(sorted(known))}."
        ) from error


def below(location: StoreLike, name: str) -> StoreLike:
    """Return the location of a group of a store as a store of its own.

    Parameters
    ----------
    location : str, path or zarr.abc.store.Store
        Of the store.
    name : str
        Name of the group.

    Raises
    ------
    InvalidInputError
        If `location` is a store object that is no directory.
    """
    if isinstance(location, LocalStore):
        return LocalStore(location.root / name)
    if isinstance(location, Store):
        raise InvalidInputError(
            f"a second run cannot be put below the store object {describe(location)!r}: pass a path or a URL."
        )
    return f"{location.rstrip('/')}/{name}" if isinstance(location, str) else Path(location) / name


def memory_store() -> MemoryStore:
    """Return a new store in the memory of this process."""
    return MemoryStore()


@contextmanager
def temporary_store() -> Iterator[LocalStore]:
    """Give a new store in a temporary directory, and remove it when the block ends."""
    with tempfile.TemporaryDirectory(prefix="devinterp-") as path:
        yield LocalStore(path)


def is_process_memory(store: Store) -> bool:
    """Say whether a store is memory of this process, which no other process can write to."""
    return isinstance(store, MemoryStore) or (isinstance(store, FsspecStore) and "memory" in store.fs.protocol)


def check_writable(path: Path) -> None:
    """Raise `StoreError` unless a directory at `path` can be written to; leaves nothing behind.

    Permission bits say nothing of read-only file systems, and do not bind a superuser: a probe file is written and removed.
    So are missing directories, which a run that is refused later must not leave.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".devinterp-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}. Choose another path.") from error
    finally:
        for folder in missing:
            with suppress(OSError):  # was not made, or another process uses it by now
                folder.rmdir()
