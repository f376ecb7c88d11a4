"""A zarr store that keeps a run in an Icechunk repository."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk
from filelock import FileLock
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from devinterp.errors import InvalidInputError, StoreError

#: What must be seen by other processes before a commit, or would stay in the history for ever: locks, states of chains.
_ASIDE = ("lock", "resume")
_FOLDER = "devinterp-aside"


@dataclass(frozen=True)
class Commit:
    """One commit of a run.

    Parameters
    ----------
    snapshot : str
        Its identity, for `IcechunkRun.at`.
    written : datetime.datetime
        When it was made.
    message : str
        What was flushed.
    """

    snapshot: str
    written: datetime
    message: str


class IcechunkRun(WrapperStore[Store]):
    """A run in an Icechunk repository, for ``sample(output_path=...)`` and ``devinterp.open``.

    What is written becomes visible to others, and part of the history, when devinterp commits: after it has made room for
    a run, and with every flush. Locks and the states of unfinished chains are kept beside the repository.

    Parameters
    ----------
    storage : path or icechunk.Storage
        A directory, or any storage of Icechunk, such as ``icechunk.s3_storage(...)``. Made if it is not there.
    aside : zarr.abc.store.Store, optional
        Where locks and states of chains are kept; a directory in the repository's by default. Needed if `storage` is no
        directory, and then it must be one that all who write the run can reach.
    branch : str, default: "main"
        Branch of the repository to read and write; made from ``main`` if it is not there.

    Raises
    ------
    InvalidInputError
        If `aside` is missing.

    Examples
    --------
    >>> from devinterp_icechunk import IcechunkRun
    >>> store = IcechunkRun("run.icechunk")  # doctest: +SKIP
    >>> tree = sample(model, dataset, output_path=store)  # doctest: +SKIP
    >>> first = store.history()[-2]  # doctest: +SKIP
    >>> devinterp.open(store.at(first.snapshot))  # doctest: +SKIP
    """

    def __init__(
        self,
        storage: str | os.PathLike[str] | icechunk.Storage,
        *,
        aside: Store | None = None,
        branch: str = "main",
    ) -> None:
        mutex: Path | None = None
        if isinstance(storage, (str, os.PathLike)):
            path = Path(storage).expanduser()
            folder = path / _FOLDER
            storage = icechunk.local_filesystem_storage(str(path))
            aside = LocalStore(folder) if aside is None else aside
            mutex = path / f"{_FOLDER}.lock"
        if aside is None:
            raise InvalidInputError("pass `aside`, a zarr store for locks and states of chains, with a storage object.")
        repository = icechunk.Repository.open_or_create(storage)
        if branch not in repository.list_branches():
            repository.create_branch(branch, repository.lookup_branch("main"))
        self._set(repository, aside, branch, mutex, None)

    def _set(
        self, repository: icechunk.Repository, aside: Store, branch: str, mutex: Path | None, snapshot: str | None
    ) -> None:
        self._repository, self._aside, self._branch = repository, aside, branch
        self._mutex, self._snapshot = mutex, snapshot
        self._committing = threading.Lock()
        self._start()

    def _start(self) -> None:
        if self._snapshot is None:
            self._session = self._repository.writable_session(self._branch)
        else:
            self._session = self._repository.readonly_session(snapshot_id=self._snapshot)
        super().__init__(self._session.store)

    def commit(self, message: str) -> None:
        """Commit what was written since the last commit, if anything, and go on from the branch's newest state.

        Other processes may have committed other chunks meanwhile: these are kept.

        Raises
        ------
        StoreError
            If another process changed the same chunks.
        """
        with self._committing, self._alone():
            if self._session.has_uncommitted_changes:
                try:
                    self._session.commit(message, rebase_with=icechunk.ConflictDetector())
                except (icechunk.ConflictError, icechunk.RebaseFailedError) as error:
                    raise StoreError(f"another process changed the same part of {self}: {error}") from error
            self._start()

    def history(self) -> list[Commit]:
        """Return the commits of the branch, newest first."""
        found = self._repository.ancestry(branch=self._branch)
        return [Commit(info.id, info.written_at, info.message) for info in found]

    def at(self, snapshot: str) -> IcechunkRun:
        """Return the run as it was after a commit, for reading."""
        past = object.__new__(IcechunkRun)
        past._set(self._repository, self._aside, self._branch, self._mutex, snapshot)
        return past

    def _alone(self) -> AbstractContextManager[Any]:
        """Hold off other processes where Icechunk cannot: its commits to a directory are not atomic."""
        return nullcontext() if self._mutex is None else FileLock(self._mutex)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._repository, self._aside, self._branch, self._mutex, self._snapshot)

    def __str__(self) -> str:
        return f"{self._repository.storage} ({self._snapshot or self._branch})"

    def __repr__(self) -> str:
        return f"IcechunkRun({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkRun) and (self._session.store, self._snapshot) == (
            other._session.store,
            other._snapshot,
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def supports_consolidated_metadata(self) -> bool:
        """Icechunk keeps all metadata together by itself."""
        return False

    def with_read_only(self, read_only: bool = False) -> IcechunkRun:
        """Return the run as it is now for reading, or itself."""
        return self.at(self._session.snapshot_id) if read_only and not self.read_only else self

    def _of(self, key: str) -> Store:
        return self._aside if key.split("/")[0] in _ASIDE else self._store

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key, or None."""
        return await self._of(key).get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Say whether a key is there."""
        return await self._of(key).exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Set a key."""
        await self._of(key).set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set a key unless it is there."""
        await self._of(key).set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self._of(key).delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        await self._of(prefix).delete_dir(prefix)

    async def is_empty(self, prefix: str) -> bool:
        """Say whether there is nothing below a prefix."""
        return await self._of(prefix).is_empty(prefix)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List the keys below a prefix; those kept aside only if it names them."""
        return self._of(prefix).list_prefix(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what is directly below a prefix; what is kept aside only if it names that."""
        return self._of(prefix).list_dir(prefix)


def _restore(*parts: Any) -> IcechunkRun:
    store = object.__new__(IcechunkRun)
    store._set(*parts)
    return store
