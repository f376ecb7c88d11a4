"""What holds for every test: no network, one torch thread, and types and shapes checked at run time."""

from __future__ import annotations

import gc
import os

# Before anything imports torch or huggingface_hub. One thread for each worker process: more only makes them wait for each
# other, and results do not depend on how a sum was split.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

from support import typecheck

# Each full collection looks at a million objects of torch and transformers: one in twenty seconds of the suite, by default.
gc.set_threshold(10_000, 20, 50)

# Annotations of functions and dataclasses of these packages, jaxtyping's shapes among them, are checked at every call;
# not in benchmarks, which would measure the checks.
if os.environ.get("DEVINTERP_TYPECHECK", "1") != "0":
    typecheck.install(["devinterp", "devinterp_bench"])
