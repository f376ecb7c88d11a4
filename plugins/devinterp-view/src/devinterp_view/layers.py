"""Numbers of the tokens of passages, by which they are coloured: learning coefficients and susceptibilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.pictures import colour_limit
from devinterp.analyses.llc.tokens import token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.errors import MissingDataError
from devinterp.schema import POSITION, RESTRICTION, SEQUENCE
from devinterp_view.budget import MAX_LAYER_BYTES, attempt, first
from devinterp_view.coefficients import susceptibility_options
from devinterp_view.html import packed
from devinterp_view.passages import Passage
from devinterp_view.subject import Subject, with_sequences
from devinterp_view.text import name


@dataclass(frozen=True, slots=True)
class Layer:
    """One number for each token of all passages, one after the other.

    Parameters
    ----------
    kind : {"llc", "susceptibility"}
        What it is.
    restriction : str
        Of which weights.
    values, errors : numpy.ndarray
        float32 ``(token,)`` and standard errors; NaN of tokens that are not predicted.
    """

    kind: str
    restriction: str
    values: np.ndarray
    errors: np.ndarray

    def numbers(self) -> dict[str, Any]:
        """Return the numbers as the script of a page reads them."""
        return {"values": packed(self.values), "errors": packed(self.errors), "limit": colour_limit(self.values)}


def layer_label(kind: str, restriction: str) -> tuple[str, str]:
    """Return what a page calls a layer: its kind, and the weights."""
    return {"llc": "LLC of the token", "susceptibility": "susceptibility of the token"}[kind], name(restriction)


def layers(subject: Subject, passages: Sequence[Passage], sampling_task: str | None) -> tuple[list[Layer], list[str]]:
    """Return the layers there is room for, and what is missing and why."""
    num_tokens = sum(len(passage.texts) for passage in passages)
    most = max(1, MAX_LAYER_BYTES // (8 * max(num_tokens, 1)) // 2)
    restrictions, left_out = first(subject.restrictions, most, "restrictions")
    made: list[Layer] = []
    notes = [f"Colours: {left_out}"] if left_out else []
    for kind, plural in (("llc", "learning coefficients"), ("susceptibility", "susceptibilities")):
        of_kind, reason = attempt(partial(layers_of, subject, passages, kind, restrictions, sampling_task))
        made += of_kind or []
        if reason:
            notes.append(f"No {plural} of tokens: {reason}")
    return made, notes


def layers_of(
    subject: Subject, passages: Sequence[Passage], kind: str, restrictions: list[str], sampling_task: str | None
) -> list[Layer]:
    """Return the numbers of one kind of all tokens of some passages, under each of some restrictions.

    Parameters
    ----------
    subject : Subject
        The run.
    passages : sequence of Passage
        Whose losses alone are read, beside those of the sampling task for susceptibilities.
    kind : {"llc", "susceptibility"}
        Which numbers.
    restrictions : list of str
        Of which weights.
    sampling_task : str or None
        The observable made of the data that the run was sampled on.

    Raises
    ------
    MissingDataError
        If the run does not have them.
    """
    if kind == "llc":
        return _llcs(subject, passages, restrictions)
    return _susceptibilities(subject, passages, restrictions, sampling_task)


def rows_of(passages: Sequence[Passage]) -> dict[str, list[int]]:
    """Return the sequences that passages are, by observable."""
    rows: dict[str, list[int]] = {}
    for passage in passages:
        rows.setdefault(passage.observable, []).append(passage.sequence)
    return rows


def _llcs(subject: Subject, passages: Sequence[Passage], restrictions: list[str]) -> list[Layer]:
    run = with_sequences(subject.under(restrictions), rows_of(passages))
    results = {each: token_llc(run, each, chains=subject.chains).compute() for each in rows_of(passages)}
    error = {each: result.get("llc_se") for each, result in results.items()}
    values = _by_restriction({each: result["llc"] for each, result in results.items()}, passages, restrictions)
    errors = _by_restriction(error, passages, restrictions)
    return [Layer("llc", each, values[each], errors[each]) for each in restrictions]


def _susceptibilities(
    subject: Subject, passages: Sequence[Passage], restrictions: list[str], sampling_task: str | None
) -> list[Layer]:
    if len(subject.restrictions) < 2:
        raise MissingDataError("they compare weight restrictions, and this run has one.")
    reference = [each for each in ("full",) if each in subject.restrictions and each not in restrictions]
    task = [sampling_task] if sampling_task is not None else subject.observables[:1]
    run = with_sequences(subject.under([*restrictions, *reference]), rows_of(passages), whole=task)
    tree = compute_susceptibilities(run, sampling_task, **susceptibility_options(subject))
    labelled = tree["labelled"].to_dataset()
    parts: dict[str, dict[str, xr.DataArray]] = {"susceptibility": {}, "susceptibility_se": {}}
    for observable, sequences in rows_of(passages).items():
        kept = sequences if observable in task else range(len(sequences))
        for key in parts:
            parts[key][observable] = labelled[key].sel(observable=observable).isel({SEQUENCE: list(kept)}).compute()
    values, errors = (_by_restriction(each, passages, restrictions) for each in parts.values())
    return [Layer("susceptibility", each, values[each], errors[each]) for each in restrictions]


def _by_restriction(
    arrays: dict[str, xr.DataArray | None] | dict[str, xr.DataArray], passages: Sequence[Passage], names: list[str]
) -> dict[str, np.ndarray]:
    """Return for each restriction the numbers of all tokens, given arrays ``(restriction, sequence, position)``."""
    seen: dict[str, int] = {}
    parts: list[np.ndarray] = []
    for passage in passages:
        row = seen.setdefault(passage.observable, 0)
        seen[passage.observable] += 1
        parts.append(_of_tokens(arrays[passage.observable], row, passage, len(names)))
    joined = np.concatenate(parts, axis=1).astype(np.float32)
    return dict(zip(names, joined, strict=True))


def _of_tokens(array: xr.DataArray | None, row: int, passage: Passage, num_restrictions: int) -> np.ndarray:
    """Return the numbers ``(restriction, token)`` of one passage, NaN where a token is not predicted."""
    numbers = np.full((num_restrictions, len(passage.texts)), np.nan)
    if array is None:
        return numbers
    if POSITION not in array.dims:
        raise MissingDataError("the losses of this run have no dimension `position`.")
    one = array.isel({SEQUENCE: row})
    one = one.transpose(RESTRICTION, POSITION) if RESTRICTION in one.dims else one.expand_dims(RESTRICTION)
    predicted = one[POSITION].to_numpy() if POSITION in one.coords else np.arange(1, one.sizes[POSITION] + 1)
    is_shown, places = passage.shown(predicted)
    numbers[:, places] = one.to_numpy()[:num_restrictions, is_shown]
    return numbers
