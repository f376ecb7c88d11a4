"""Whether the store holds all of a run, found out without its model being loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, final

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.schedule import Schedule, observable_rows
from devinterp.sampling.losses.identity import update_with_value
from devinterp.sampling.options import RunOptions
from devinterp.sampling.run_store.fingerprint import hash_rows
from devinterp.sampling.settings import Settings
from devinterp.slt.prepared_run import settings_of
from devinterp.store.study_store import StudyStore

#: Key of a run's notes under which a study keeps the run's labels and what was asked for.
NOTE = "study"


@final
class Requests:
    """Digests of what is asked for, by which a run that is stored already is known.

    Data that several runs share are read once.

    Parameters
    ----------
    how : RunOptions
        How the study is carried out.
    """

    def __init__(self, how: RunOptions) -> None:
        self._how = how
        self._rows: dict[Any, tuple[Any, str]] = {}

    def digest(self, arguments: Mapping[str, Any], model: str) -> str:
        """Return a text that is different for every run that may differ.

        Parameters
        ----------
        arguments : mapping
            Of `devinterp.slt.sampling.sample`, but for the model.
        model : str
            What identifies the model.
        """
        settings = settings_of(arguments)
        only_tokens = arguments["loss_fn"] is None
        rows = [self._hash(arguments["dataset"], settings, None, only_tokens)]
        for name, value in (arguments["observables"] or {}).items():
            has_count = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int)
            data, batches = value if has_count else (value, settings.batches_per_draw)
            rows.append(self._hash(data, settings, (name, batches), only_tokens))
        digest = hashlib.blake2b(digest_size=16)
        # A store says null for what JSON does not know; the digest need only be the same for the same.
        digest.update(
            json.dumps([settings.to_config(), rows, model, self._how.null, self._how.paired], default=str).encode()
        )
        for name in ("param_masks", "weight_restrictions", "loss_fn", "loss_dims", "loss_id", "adapter"):
            update_with_value(digest, _plain(arguments[name]))
        return digest.hexdigest()

    def _hash(self, data: Any, settings: Settings, observable: tuple[str, int] | None, only_tokens: bool) -> str:
        # What decides which rows are read.
        key = (id(data), observable, only_tokens, json.dumps(settings.to_config(), default=str))
        if key not in self._rows:
            source = row_source(data, name="`dataset`" if observable is None else f"observable {observable[0]!r}")
            if observable is None:
                ids = Schedule(settings, source.num_rows).rows()
            else:
                ids = observable_rows(settings, source.num_rows, observable[1], name=observable[0])
            # The data are held, so that nothing else gets their id meanwhile.
            self._rows[key] = data, hash_rows(source.read(ids, only_tokens=only_tokens))
        return self._rows[key][1]


def is_stored(store: StudyStore, run: str, digest: str, how: RunOptions) -> bool:
    """Say whether a store holds all that is asked for of a run.

    Parameters
    ----------
    store : StudyStore
        The store of the study.
    run : str
        Name of the run.
    digest : str
        From `Requests.digest`.
    how : RunOptions
        How the study is carried out.
    """
    attrs = store.attrs(run)
    if how.repair or not schema.is_run_attrs(attrs) or note_of(attrs).get("request") != digest:
        return False
    return all(_is_at_its_end(store, each) for each in ([run, f"{run}/{schema.NULL}"] if how.null else [run]))


def note_of(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a study noted in a run's provenance."""
    try:
        note = json.loads(attrs["provenance"])["notes"][NOTE]
    except (KeyError, TypeError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_at_its_end(store: StudyStore, run: str) -> bool:
    try:
        status = store.status(run)
    except StoreError:
        return False
    states = {str(state) for state in status.state.ravel()}
    return states <= {schema.FINISHED, schema.DIVERGED}


def _plain(value: Any) -> Any:
    """Return restrictions as what a hash takes in."""
    if isinstance(value, ParamMasks):
        return {name: mask.to_bool() for name, mask in value.items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value
