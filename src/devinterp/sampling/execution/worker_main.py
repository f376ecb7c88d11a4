"""A worker process of `devinterp.sampling.execution.local_processes`, run with ``python -m``.

It is sent pickles on its standard input by the process that started it, and by nobody else.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

#: Length of what follows. (`multiprocessing.connection` frames messages too, but not over plain pipes on every system.)
_HEADER = struct.Struct(">Q")


def send(stream: BinaryIO, message: object) -> None:
    """Write one message."""
    import cloudpickle

    content = cloudpickle.dumps(message)
    stream.write(_HEADER.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message.

    Raises
    ------
    EOFError
        If the other side is gone.
    """
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    (size,) = _HEADER.unpack(header)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return pickle.loads(content)  # from the process that started this one, or that this one started


def main() -> None:
    """Do tasks until there are no more."""
    _die_with_parent()
    incoming = sys.stdin.buffer
    # Whatever prints must not end up among the messages.
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path, packed = receive(incoming)
    sys.path[:] = path
    from devinterp.sampling.execution.packed_job import started
    from devinterp.sampling.execution.signals import listening

    try:
        worker = started(packed)
    except Exception as error:  # whatever reading what a user defines raises; another process would not fare better
        send(outgoing, ("unreadable", f"{type(error).__name__}: {error}"))
        return
    with listening() as stop:
        send(outgoing, ("ready", None))
        while True:
            try:
                task = receive(incoming)
            except EOFError:
                return
            try:
                choices = worker.run(task, partial(_tell, outgoing), stop)
                send(outgoing, ("done", choices))
            except (SystemExit, KeyboardInterrupt):
                send(outgoing, ("stopped", None))
                return
            except BaseException as error:
                send(outgoing, ("failed", _portable(error)))


def _tell(outgoing: BinaryIO, update: object) -> None:
    send(outgoing, ("update", update))


def _portable(error: BaseException) -> BaseException:
    """Return an error that the other side can unpickle, with its traceback in words."""
    note = "".join(traceback.format_exception(error))
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        error.add_note(f"In a worker:\n{note}")
        error.__cause__ = error.__context__ = None
        return error
    return RuntimeError(f"a worker failed:\n{note}")


def _die_with_parent() -> None:
    """End when the process that started this one ends, however it does: two must never write the same chain."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent or parent == 1:
            os._exit(1)


if __name__ == "__main__":
    main()
