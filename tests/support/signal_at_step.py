"""Run until a certain step, at which this process gets a signal. A script of its own: signals need a main thread."""

from __future__ import annotations

import os
import signal
import sys

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from support.small_runs import counting, run  # noqa: E402

if __name__ == "__main__":
    path, number = sys.argv[1:]
    # A shell that starts jobs in the background has them ignore Ctrl-C, and what ignores it is not to be stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # In the fifth step of the second chain; states are saved only when the signal asks for it.
    model = counting(15 + 5, lambda: os.kill(os.getpid(), int(number)))
    try:
        run(path, model, checkpoint_share=0.0)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
