"""Sampling: from a model and data to draws in a store.

A run passes the files in this order. `prepare` turns arguments into a `spec.RunSpec` (with `settings`, `data/` and `losses/`);
`driver` finds or creates its store (`run_store/`) and hands what remains of it to `execution/`, which runs the chain loop
(`chains/`) on engines (`engines/`). `options` says where and how; `estimate` says what it would cost; `model_guard` puts the
caller's model back. docs/life-of-a-run.md follows one run through all of them.
"""
