"""The strongest numbers of a result too large for a table, as text: pairs of ``bif``, tokens of ``susceptibilities``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import xarray as xr
from rich.markup import escape
from rich.table import Table

from devinterp.schema import RESTRICTION
from devinterp.token_text import Tokenizer, pieces, visible

#: Pairs or tokens of each sign that are listed, restrictions of which they are, and tokens of text before and after.
NUM_LISTED, MAX_RESTRICTIONS, BEFORE, AFTER = 6, 8, 6, 3
#: Values of a result in memory that are looked through, and of a lazy one that are computed for it; of a larger one it is said
#: how to ask for less.
MAX_LOADED, MAX_COMPUTED = 2**26, 2**24
_BIF_DIMS = {RESTRICTION, "batch_1", "batch_2", "target_position", "target_position_T", "sign", "rank"}
_SUSCEPTIBILITY_DIMS = {RESTRICTION, "observable", "sequence", "position"}
_SIGNS = ((1, "strongest positive"), (-1, "strongest negative"))


def is_bif(result: Any) -> TypeGuard[xr.Dataset]:
    """Say whether a result is of ``bif``, of one run."""
    is_one = isinstance(result, xr.Dataset) and "influences" in result and "observable_1" in result.coords
    return is_one and set(result["influences"].dims) <= _BIF_DIMS


def is_susceptibilities(result: Any) -> TypeGuard[xr.DataTree]:
    """Say whether a result is of ``susceptibilities``, of one run."""
    if not isinstance(result, xr.DataTree) or "labelled" not in result.children:
        return False
    labelled = result["labelled"].to_dataset()
    return "susceptibility" in labelled and set(labelled["susceptibility"].dims) <= _SUSCEPTIBILITY_DIMS


def bif_summary(result: xr.Dataset, tokenizer: Tokenizer | None) -> Iterator[Any]:
    """Yield the strongest pairs of each restriction, without a token or sequence with itself, each pair once.

    Parameters
    ----------
    result : xarray.Dataset
        From `devinterp.analyses.bif.compute_bif`.
    tokenizer : Tokenizer, optional
        Decodes token ids; without one they are shown as numbers.

    Yields
    ------
    str or rich.table.Table
        What rich prints.
    """
    kind = "covariance" if result.attrs.get("compute_covariance") else "correlation"
    yield f"[bold]influences[/]  {kind} of losses over the posterior; the influence of arXiv:2509.26544 is its negative"
    if _too_large(result["influences"]):
        yield _advice(result["influences"], "--top-k 5")
        return
    for name, one in _restrictions(result.compute()):
        texts = [_Texts(one, side, tokenizer) for side in (1, 2)]
        values, errors, places = _ranked(one) if "rank" in one.dims else _pairs(one)
        for sign, title in _SIGNS:
            table = _table(f"{title}{name}", ("influence", "of", "on"))
            for n in _largest(sign * values):
                first, second = (each.at(*place) for each, place in zip(texts, places(n), strict=True))
                table.add_row(_number(values[n], errors[n]), first, second)
            if table.row_count:
                yield table


def susceptibility_summary(tree: xr.DataTree, tokenizer: Tokenizer | None) -> Iterator[Any]:
    """Yield the tokens most susceptible to each restriction.

    Parameters
    ----------
    tree : xarray.DataTree
        From `devinterp.analyses.susceptibilities.compute_susceptibilities`.
    tokenizer : Tokenizer, optional
        Decodes token ids; without one they are shown as numbers.

    Yields
    ------
    str or rich.table.Table
        What rich prints.
    """
    labelled = tree["labelled"].to_dataset()
    settings = "".join(f"  {key}={tree.attrs[key]}" for key in ("sampling_task", "estimator") if key in tree.attrs)
    yield f"[bold]susceptibilities[/]{escape(settings)}"
    if _too_large(labelled["susceptibility"]):
        yield _advice(labelled["susceptibility"], "--observable-names NAME")
        return
    for name, one in _restrictions(labelled.compute()):
        values = one["susceptibility"].transpose("observable", "sequence", "position").to_numpy()
        errors = np.full(values.shape, np.nan)
        if "susceptibility_se" in one:
            errors = one["susceptibility_se"].transpose("observable", "sequence", "position").to_numpy()
        observables, positions = one["observable"].to_numpy(), one["position"].to_numpy()
        for sign, title in _SIGNS:
            table = _table(f"{title}{name}", ("susceptibility", "token"))
            for n in _largest(sign * values.ravel()):
                o, s, p = (int(each) for each in np.unravel_index(n, values.shape))
                ids = one["token_ids"].to_numpy()[o, s] if "token_ids" in one else None
                text = _context(ids, int(positions[p]), tokenizer)
                table.add_row(
                    _number(values[o, s, p], errors[o, s, p]), _place(observables[o], s, int(positions[p])) + text
                )
            if table.row_count:
                yield table


def _too_large(array: xr.DataArray) -> bool:
    return array.size > (MAX_LOADED if array.chunks is None else MAX_COMPUTED)


def _advice(array: xr.DataArray, option: str) -> str:
    sizes = " × ".join(f"{dim} {length:,}" for dim, length in array.sizes.items())
    return f"{escape(sizes)}: too many to be looked through here; ask for less, for example with {option}."


def _restrictions(dataset: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield each restriction with what its tables are called after, as many as fit."""
    if RESTRICTION not in dataset.dims:
        yield "", dataset
        return
    for name in dataset[RESTRICTION].to_numpy()[:MAX_RESTRICTIONS]:
        yield f", {visible(str(name))}", dataset.sel({RESTRICTION: name})


def _largest(values: np.ndarray) -> list[int]:
    """Return the places of the largest values, which are above zero, the largest first."""
    found = np.flatnonzero(values > 0)
    kept = found[np.argpartition(-values[found], NUM_LISTED)[:NUM_LISTED]] if len(found) > NUM_LISTED else found
    return [int(n) for n in kept[np.argsort(-values[kept], kind="stable")]]


def _pairs(one: xr.Dataset) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return all influences in a row, NaN of a thing with itself and of a pair's second time, errors, and the places."""
    tokens = "target_position" in one.dims
    dims = ("batch_1", "target_position", "batch_2", "target_position_T") if tokens else ("batch_1", "batch_2")
    values = one["influences"].transpose(*dims).to_numpy().astype(float)
    errors = (
        one["influences_se"].transpose(*dims).to_numpy() if "influences_se" in one else np.full(values.shape, np.nan)
    )
    sides = [_names(one, side, tokens) for side in (1, 2)]
    number = {each: n for n, each in enumerate(dict.fromkeys([*sides[0], *sides[1]]))}
    first, second = (np.array([number[each] for each in side]) for side in sides)
    flat = values.reshape(len(first), len(second))
    both = np.isin(first[:, None], second) & np.isin(second[None, :], first)
    flat[(first[:, None] == second) | (both & (first[:, None] > second))] = np.nan

    def places(n: int) -> tuple[tuple[int, int], tuple[int, int]]:
        index = np.unravel_index(n, values.shape)
        return ((int(index[0]), int(index[1])), (int(index[2]), int(index[3]))) if tokens else (
            (int(index[0]), -1), (int(index[1]), -1)
        )  # fmt: skip

    return flat.ravel(), errors.astype(float).ravel(), places


def _names(one: xr.Dataset, side: int, tokens: bool) -> list[tuple[Any, ...]]:
    """Return what each row of a side is: observable, sequence and, of tokens, position."""
    pairs = list(zip(one[f"observable_{side}"].to_numpy(), one[f"sequence_{side}"].to_numpy(), strict=True))
    if not tokens:
        return [(str(o), int(s)) for o, s in pairs]
    positions = one["target_position" if side == 1 else "target_position_T"].to_numpy()
    return [(str(o), int(s), int(p)) for o, s in pairs for p in positions]


def _ranked(one: xr.Dataset) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the influences of a result with `top_k` in a row, errors (none), and the places."""
    tokens = "target_position" in one.dims
    dims = ("batch_1", "target_position", "sign", "rank") if tokens else ("batch_1", "sign", "rank")
    values = one["influences"].transpose(*dims).to_numpy()
    batch = one["candidate_batch"].transpose(*dims).to_numpy().ravel()
    names = list(one["target_position_T"].to_numpy()) if tokens and "target_position_T" in one.coords else []
    position = one["candidate_position"].transpose(*dims).to_numpy().ravel() if "candidate_position" in one else None
    of_label = {int(label): n for n, label in enumerate(names)}

    def places(n: int) -> tuple[tuple[int, int], tuple[int, int]]:
        index = np.unravel_index(n, values.shape)
        second = of_label.get(int(position[n]), -1) if position is not None else -1
        return (int(index[0]), int(index[1]) if tokens else -1), (int(batch[n]), second)

    return values.ravel().astype(float), np.full(values.size, np.nan), places


class _Texts:
    """What stands on one side of a result, as text."""

    def __init__(self, one: xr.Dataset, side: int, tokenizer: Tokenizer | None) -> None:
        ids = "input_ids" if side == 1 else "candidate_input_ids"
        positions = "target_position" if side == 1 else "target_position_T"
        self._observables = one[f"observable_{side}"].to_numpy()
        self._sequences = one[f"sequence_{side}"].to_numpy()
        self._ids = one[ids].to_numpy() if ids in one else None
        self._positions = one[positions].to_numpy() if positions in one.coords else None
        self._tokenizer = tokenizer

    def at(self, batch: int, position: int) -> str:
        """Return one row, and one token of it unless the position is -1."""
        label = -1 if position < 0 or self._positions is None else int(self._positions[position])
        ids = None if self._ids is None else self._ids[batch]
        place = _place(self._observables[batch], int(self._sequences[batch]), label)
        return place + _context(ids, label, self._tokenizer)


def _place(observable: object, sequence: int, position: int) -> str:
    return escape(visible(f"{observable} {sequence}")) + (f":{position}" if position >= 0 else "") + "  "


def _context(ids: np.ndarray | None, position: int, tokenizer: Tokenizer | None) -> str:
    """Return a token between marks with some of the text around it, or the beginning of a sequence."""
    if ids is None:
        return ""
    real = ids[: int((ids >= 0).sum())].tolist()
    if position < 0:
        return escape(_joined(pieces(real[: 2 * BEFORE], tokenizer))) + "…"
    start = max(0, position - BEFORE - 8)  # some more, on which the text of the first may depend
    texts = pieces(real[start : position + AFTER + 1], tokenizer)
    at = position - start
    before, after = texts[max(0, at - BEFORE) : at], texts[at + 1 :]
    return f"…{escape(_joined(before))}«[bold]{escape(_joined(texts[at : at + 1]))}[/]»{escape(_joined(after))}…"


def _joined(texts: Sequence[str]) -> str:
    return "".join(visible(each)[:60] for each in texts)


def _number(value: Any, error: Any) -> str:
    return f"{value:.4g}" if np.isnan(error) else f"{value:.4g} ± {error:.2g}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
