"""Compare a run with what a store holds: the same, the same and more of it, or another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from zarr.abc.store import Store

from devinterp.errors import StoreError, StoreMismatchError
from devinterp.sampling.data.datasets import Rows, map_tensors
from devinterp.sampling.data.schedule import rows_of_run
from devinterp.sampling.run_store import fingerprint as identity
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec
from devinterp.store.reading.status import read_attrs


@dataclass(frozen=True)
class Extension:
    """What a run asks for beyond what its store holds.

    Parameters
    ----------
    spec : RunSpec
        The run, its restrictions and observables in the order of the store, new ones after them.
    draws, chains : int
        How many more.
    restrictions, observables : tuple of str
        Which further ones.
    """

    spec: RunSpec
    draws: int
    chains: int
    restrictions: tuple[str, ...]
    observables: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.draws or self.chains or self.restrictions or self.observables)


def compare(
    store: Store, where: str, spec: RunSpec, loss_dims: tuple[str, ...], prints: Mapping[str, Any]
) -> Extension:
    """Return what a run, with its fingerprints, asks for beyond what its store holds.

    Raises
    ------
    StoreMismatchError
        If the store holds another run; the message says what differs. Nothing is changed.
    StoreError
        If it holds none.
    """
    config, fingerprints = _read(store, where)
    stored = _as_stored(spec, config)
    # A smaller run of the same spec differs in its rows only.
    wanted = dict(prints)
    wanted["masks"] = {name: wanted["masks"][name] for name in stored.restrictions}
    wanted["observables"] = {name: wanted["observables"][name] for name in stored.observables}
    if stored.rows is not spec.rows:
        wanted["dataset"] = identity.hash_rows(stored.rows)
    ours = {"config": json.loads(json.dumps(identity.config(stored, loss_dims))), **wanted}
    lines = identity.differences({"config": config, **fingerprints}, ours)
    if lines:
        raise StoreMismatchError(
            f"{where} holds another run; choose another path or delete it (draws, chains, restrictions and observables can be "
            "added, nothing else changed). What differs:\n  " + "\n  ".join(lines)
        )
    ordered = replace(
        spec,
        restrictions={**stored.restrictions, **spec.restrictions},
        observables={**stored.observables, **spec.observables},
    )
    return Extension(
        ordered,
        spec.settings.num_draws - stored.settings.num_draws,
        spec.settings.num_chains - stored.settings.num_chains,
        tuple(name for name in spec.restrictions if name not in stored.restrictions),
        tuple(name for name in spec.observables if name not in stored.observables),
    )


def _read(store: Store, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    attrs = read_attrs(store)
    try:
        config, provenance = json.loads(attrs["config"]), json.loads(attrs["provenance"])
        fingerprints = provenance["fingerprints"]
        if isinstance(config, dict) and isinstance(fingerprints, dict):
            return config, fingerprints
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(f"{where} is not empty and holds no run of this package: choose another path.")


def _as_stored(spec: RunSpec, config: Mapping[str, Any]) -> RunSpec:
    """Return as much of a spec as a store with this configuration holds, where it holds less."""
    settings = spec.settings
    draws, chains = (_at_most(config, name, settings) for name in ("num_draws", "num_chains"))
    smaller = replace(settings, num_draws=draws, num_chains=chains)
    rows = spec.rows if smaller == settings else subset(spec.rows, rows_of_run(smaller, spec.num_rows))
    return replace(
        spec,
        settings=smaller,
        rows=rows,
        restrictions=_held(spec.restrictions, config.get("weight_restrictions")),
        observables=_held(spec.observables, config.get("observables")),
    )


def _at_most(config: Mapping[str, Any], name: str, settings: Settings) -> int:
    wanted, stored = getattr(settings, name), config.get(name)
    return stored if isinstance(stored, int) and 0 < stored < wanted else int(wanted)


def _held(parts: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """Return the parts a store names, in its order; all where it names another."""
    if not isinstance(names, list | dict) or not all(name in parts for name in names):
        return dict(parts)
    return {name: parts[name] for name in names}


def subset(rows: Rows, ids: Any) -> Rows:
    """Return some of the rows."""
    where = rows.locate(ids)
    mask = None if rows.attention_mask is None else rows.attention_mask[where.to(rows.attention_mask.device)]
    if mask is not None and bool(torch.all(mask)):
        mask = None  # as if the rows had been read alone: no padding among them
    return Rows(map_tensors(rows.data, lambda t: t[where.to(t.device)]), ids, mask)
