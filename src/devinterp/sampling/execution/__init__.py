"""Runs the chains that are not at their end: in this process, in local worker processes or on a Dask cluster.

`tasks` says what remains; `run_tasks` runs it in this process, watched through a `monitor` (`progress`, with the
`start_losses` that its coefficients are relative to; `signals`). In other processes a `job` does the same: `local_processes`
starts them (`worker_main` is their program), `dask_cluster` submits to a cluster. Nothing is imported here, because a worker
must take over the import path of its driver first.
"""
