"""Patterns of tokens: which begin a word, are numbers, repeat an earlier pair ...: plain functions that users add to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.schema import TOKEN
from devinterp.token_text import Tokenizer, pieces
from devinterp_structure.lazy import call, later, part
from devinterp_structure.matrix import checked_matrix
from devinterp_structure.neighbours import without_coordinates
from devinterp_structure.response import response_matrix
from devinterp_structure.steps import after, texts_last

#: ``pattern(texts, ids)`` says of each token of one text whether it has the pattern, given the text that each token adds and
#: the token ids.
Pattern: TypeAlias = Callable[[Sequence[str], np.ndarray], Any]
PATTERN = "pattern"

_OPENING, _CLOSING = "([{<\"'`", ")]}>\"'`.,;:!?"


def word_start(texts: Sequence[str], ids: np.ndarray) -> list[bool]:
    """Say which tokens begin a word: a letter is their first character but spaces, and no letter ends the token before."""
    return [
        _begins_with_letter(text) and (text[:1].isspace() or not _ends_with_letter(before))
        for before, text in zip(["", *texts], texts, strict=False)
    ]


def word_end(texts: Sequence[str], ids: np.ndarray) -> list[bool]:
    """Say which tokens end a word that began before: they begin and end with a letter, and the next token is no more of it."""
    ends = [
        _ends_with_letter(text) and not after[:1].isalpha()
        for text, after in zip(texts, [*texts[1:], " "], strict=False)
    ]
    starts = word_start(texts, ids)
    return [end and not start and text[:1].isalpha() for end, start, text in zip(ends, starts, texts, strict=True)]


def space(texts: Sequence[str], ids: np.ndarray) -> list[bool]:
    """Say which tokens are nothing but spaces, tabs and line ends."""
    return [text.isspace() for text in texts]


def delimiter(texts: Sequence[str], ids: np.ndarray) -> list[bool]:
    """Say which tokens are brackets, quotes or marks that end a clause, and nothing else."""
    return [bool(text.strip()) and set(text.strip()) <= set(_OPENING + _CLOSING) for text in texts]


def numeric(texts: Sequence[str], ids: np.ndarray) -> list[bool]:
    """Say which tokens hold a digit and no letter."""
    return [any(c.isdigit() for c in text) and not any(c.isalpha() for c in text) for text in texts]


def induction(texts: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """Say which tokens can be copied: the token and the one before it have stood next to each other earlier in the text."""
    ids = np.asarray(ids)
    seen: set[tuple[int, int]] = set()
    copied = np.zeros(len(ids), dtype=bool)
    for place in range(1, len(ids)):
        pair = (int(ids[place - 1]), int(ids[place]))
        copied[place] = pair in seen
        seen.add(pair)
    return copied


#: The patterns by name, as in arXiv:2508.00331.
PATTERNS: dict[str, Pattern] = {
    "word_start": word_start,
    "word_end": word_end,
    "space": space,
    "delimiter": delimiter,
    "numeric": numeric,
    "induction": induction,
}


def patterns(
    tree: xr.DataTree | xr.Dataset,
    tokenizer: Tokenizer | None = None,
    *,
    functions: Mapping[str, Pattern] | None = None,
    sampling_task: str | None = None,
) -> xr.Dataset:
    """Compute which patterns the token of each row has [1]_.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or a result of ``tree.slt.response_matrix()`` or of what was made from it.
    tokenizer : Tokenizer, optional
        Anything with a ``decode``, as HuggingFace's tokenizers have. Without one only patterns of token ids mean anything, so
        that ``"induction"`` alone is computed unless `functions` are given.
    functions : mapping of str to callable, optional
        The patterns by name; default: `devinterp_structure.PATTERNS`, to which others are added as in
        ``{**PATTERNS, "capital": capital}``. ``capital(texts, ids)`` is given, for one text at a time, the text that each token
        adds and the token ids as an array, and returns True or False for each token.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on.

    Returns
    -------
    xarray.Dataset
        ``has_pattern(pattern, token)``, True or False; a token may have several, or none. The attribute ``steps`` goes on from
        that of the matrix.

    Raises
    ------
    MissingDataError
        If the run holds no token ids.
    InvalidInputError
        If a function does not return one value for each token (when it is computed).

    References
    ----------
    .. [1] G. Wang, G. Baker, A. Gordon, D. Murfet. Embryology of a language model. arXiv:2508.00331.
    """
    source = _labels_of_rows(tree, sampling_task)
    if "token_ids" not in source or "token_id" not in source.coords:
        raise MissingDataError("`patterns` needs the token ids of observables; this run does not hold them for all.")
    if functions is None:
        functions = PATTERNS if tokenizer is not None else {"induction": induction}
    unusable = [str(name) for name, function in functions.items() if not callable(function)]
    if unusable or not functions:
        raise InvalidInputError(f"`functions` must be functions by name; {', '.join(unusable) or 'there are none'}.")
    names = list(functions)
    text, position = (np.asarray(source[name]) for name in ("text", "position"))
    lazy = any(variable.chunks is not None for variable in source.variables.values())
    solved = (later if lazy else call)(_has, source["token_ids"].data, text, position, tokenizer, dict(functions))
    result = without_coordinates(source).assign_coords({PATTERN: np.array(names, dtype=object)})
    result["has_pattern"] = ((PATTERN, TOKEN), part(solved, "has", (len(names), len(text)), bool))
    result.attrs = after(source, "patterns", {"patterns": names})
    return texts_last(result)


def _labels_of_rows(tree: xr.DataTree | xr.Dataset, sampling_task: str | None) -> xr.Dataset:
    """Return what says which token each row is: a result that was given, or a response matrix, whatever its estimator."""
    if isinstance(tree, xr.DataTree):
        return response_matrix(tree, sampling_task, steps=(), estimator="single_run", leave_out_chains=False)
    return tree if isinstance(tree, xr.Dataset) and "token_ids" in tree else checked_matrix(tree, needed_by="patterns")


def _has(
    token_ids: np.ndarray,
    text: np.ndarray,
    position: np.ndarray,
    tokenizer: Tokenizer | None,
    functions: Mapping[str, Pattern],
) -> dict[str, np.ndarray]:
    """Return ``has`` ``(pattern, token)``: each function is called once for each text."""
    has = np.zeros((len(functions), len(text)), dtype=bool)
    order = np.argsort(text, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(text[order])) + 1):
        ids = np.asarray(token_ids[text[rows[0]]])
        ids = ids[: int((ids >= 0).sum())] if (ids[1:] < 0).any() and ids[0] >= 0 else ids
        texts = pieces([int(each) for each in ids], tokenizer)
        for row, (name, function) in enumerate(functions.items()):
            values = np.asarray(function(texts, ids))
            if values.shape != ids.shape:
                raise InvalidInputError(
                    f"the pattern {name!r} must say True or False of each of {len(ids)} tokens; it returned an array of shape "
                    f"{values.shape}."
                )
            has[row, rows] = values.astype(bool)[position[rows]]
    return {"has": has}


def _begins_with_letter(text: str) -> bool:
    return text.lstrip()[:1].isalpha()


def _ends_with_letter(text: str) -> bool:
    return text[-1:].isalpha()
