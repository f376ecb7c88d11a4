"""What several tests share.

- `small_models`: models and data of which a run takes a fraction of a second, and comparisons of trees and models
- `small_runs`: runs with an observable, metrics and two restrictions, and ways to end them early (durability)
- `kill_at_random`, `signal_at_step`: scripts that end such a run from outside (durability)
- `engines`: prepared runs, and losses and gradients as a chain gets them (fast paths)
- `model_zoo`: a tiny model of every type that transformers can build (masks, fast paths)
- `layouts`: layouts of runs, a store that is full, the dims of the schema (store)
- `counted_reads`: a lazy tree that counts what is read of it (analyses)
- `object_store`: an S3-compatible server (durability, benchmarks)
- `v2_results`: what DevInterp 2 gave, as trees (analyses, store)
- `installed`: plugins that are installed for one test (plugins, command line)
- `typecheck`: the run-time type checker that ``tests/conftest.py`` puts around the package
"""

from support import typecheck

__all__ = ["typecheck"]
