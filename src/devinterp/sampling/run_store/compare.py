"""Compare a requested run with what a store holds: the same, the same and more of it, or another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from devinterp import schema
from devinterp.errors import StoreError, StoreMismatchError
from devinterp.sampling.chains.row_losses import MAX_SHARE, share_of_cost
from devinterp.sampling.losses.identity import changed_variables
from devinterp.sampling.run_store import fingerprint
from devinterp.sampling.run_store.weights_hash import hash_weights, same_form
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore


@final
@dataclass(frozen=True)
class Extension:
    """What a run asks for beyond what its store holds.

    Parameters
    ----------
    spec : RunSpec
        The run, its restrictions, observables and recorders in the order of the store, new ones after them.
    draws, chains : int
        How many more.
    restrictions, observables, recorders : tuple of str
        Which further ones.
    rows : bool
        Whether the losses at w0 of its rows are to be added.
    """

    spec: RunSpec
    draws: int
    chains: int
    restrictions: tuple[str, ...]
    observables: tuple[str, ...]
    recorders: tuple[str, ...]
    rows: bool

    def __bool__(self) -> bool:
        return bool(self.draws or self.chains or self.restrictions or self.rows or self.evaluates_more)

    @property
    def evaluates_more(self) -> bool:
        """Whether something is wanted of draws that were not evaluated for it: chains are sampled from their start."""
        return bool(self.observables or self.recorders)


@final
@dataclass(frozen=True)
class RequestedRun:
    """A run as it is asked for.

    Parameters
    ----------
    spec : RunSpec
        The run.
    fingerprints : mapping
        Its fingerprints, which take a while to compute.
    paired : bool or None
        Whether the losses at w0 of its rows are wanted; None where they are cheap, in a new store.
    """

    spec: RunSpec
    fingerprints: Mapping[str, Any]
    paired: bool | None = None

    @property
    def measures_rows(self) -> bool:
        """Whether a new store holds the losses at w0 of all rows that steps use."""
        return share_of_cost(self.spec) <= MAX_SHARE if self.paired is None else self.paired

    def compare(self, store: RunStore) -> Extension:
        """Return what this asks for beyond what a store holds.

        Raises
        ------
        StoreMismatchError
            If the store holds another run; the message says what differs. Nothing is changed.
        StoreError
            If it holds none.
        """
        spec = self.spec
        config, provenance = _read(store)
        stored_fingerprints = provenance["fingerprints"]
        stored = _as_stored(spec, config)
        # A smaller run of the same spec differs in its rows only.
        expected = dict(self.fingerprints)
        if not same_form(stored_fingerprints["weights"], expected["weights"]):
            expected["weights"] = hash_weights(spec.model, like=stored_fingerprints["weights"])
        expected["masks"] = {name: expected["masks"][name] for name in stored.restrictions}
        expected["observables"] = {name: expected["observables"][name] for name in stored.observables}
        if "recorders" in expected:
            expected["recorders"] = {name: expected["recorders"][name] for name in stored.recorders}
            if not stored.recorders:
                del expected["recorders"]
        if stored.rows is not spec.rows:
            expected["dataset"] = fingerprint.hash_rows(stored.rows)
        ours = {"config": json.loads(json.dumps(fingerprint.config(stored))), **expected}
        lines = fingerprint.differences({"config": config, **stored_fingerprints}, ours)
        if lines:
            lines += _changed_loss(provenance, expected["loss"], fingerprint.loss_parts(spec.loss))
            raise StoreMismatchError(
                f"{store.name} holds another run; choose another path or delete it (draws, chains, restrictions, "
                "observables and recorders can be added, nothing else changed). What differs:\n  " + "\n  ".join(lines)
            )
        ordered = replace(
            spec,
            restrictions={**stored.restrictions, **spec.restrictions},
            observables={**stored.observables, **spec.observables},
            recorders={**stored.recorders, **spec.recorders},
        )
        return Extension(
            ordered,
            spec.settings.num_draws - stored.settings.num_draws,
            spec.settings.num_chains - stored.settings.num_chains,
            tuple(name for name in spec.restrictions if name not in stored.restrictions),
            tuple(name for name in spec.observables if name not in stored.observables),
            tuple(name for name in spec.recorders if name not in stored.recorders),
            self.paired is True and not store.contains(f"{schema.TRACE}/row_id"),
        )

    def is_finished(self, store: RunStore) -> bool:
        """Say whether a store holds all of this run; raises as `compare` does."""
        return not self.compare(store) and not store.pending(self.spec.settings.num_steps)


def _read(store: RunStore) -> tuple[dict[str, Any], dict[str, Any]]:
    attrs = store.read_attrs()
    try:
        config, provenance = json.loads(attrs["config"]), json.loads(attrs["provenance"])
        if isinstance(config, dict) and isinstance(provenance["fingerprints"], dict):
            return config, provenance
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(f"{store.name} is not empty and holds no run of this package: choose another path.")


def _changed_loss(provenance: Mapping[str, Any], wanted: str, parts: Mapping[str, str]) -> list[str]:
    """Return which variables of a loss differ from those of a stored run, and what to do where the loss is the same."""
    stored, before = provenance["fingerprints"].get("loss"), provenance.get("loss_parts")
    if stored == wanted:
        return []
    names = changed_variables(before, parts) if isinstance(before, dict) and before and parts else []
    changed = f"of `loss_fn` {', '.join(f'`{name}`' for name in names)} changed. " if names else ""
    return [f"{changed}If the loss is the same nevertheless, say so with loss_id={stored!r}."]


def _as_stored(spec: RunSpec, config: Mapping[str, Any]) -> RunSpec:
    """Return as much of a run as a store with this configuration holds, where it holds less."""
    draws, chains = (_at_most(config, name, spec.settings) for name in ("num_draws", "num_chains"))
    smaller = replace(
        spec,
        settings=replace(spec.settings, num_draws=draws, num_chains=chains),
        restrictions=_stored_part(spec.restrictions, config.get("weight_restrictions")),
        observables=_stored_part(spec.observables, config.get("observables")),
        recorders=_stored_part(spec.recorders, config.get("recorders", {})),
    )
    if smaller.settings == spec.settings:
        return smaller
    return replace(smaller, rows=spec.rows.subset(smaller.schedule.rows()))


def _at_most(config: Mapping[str, Any], name: str, settings: Settings) -> int:
    requested, stored = getattr(settings, name), config.get(name)
    return stored if isinstance(stored, int) and 0 < stored < requested else int(requested)


def _stored_part(parts: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """Return the parts a store names, in its order; all where it names another."""
    if not isinstance(names, list | dict) or not all(name in parts for name in names):
        return dict(parts)
    return {name: parts[name] for name in names}
