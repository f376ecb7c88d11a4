"""Clusters as a table: size, conductance, the most frequent tokens, and a few of them in their texts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer, pieces, visible
from devinterp_structure.clusters import CLUSTER

if TYPE_CHECKING:
    import pandas as pd

#: Most frequent tokens that are listed.
_TOKENS = 5


def cluster_table(
    clusters: xr.Dataset, tokenizer: Tokenizer | None = None, *, num_examples: int = 3, context: int = 8
) -> pd.DataFrame:
    """Compute a table of clusters with the texts that their tokens stand in.

    Parameters
    ----------
    clusters : xarray.Dataset
        A result of ``tree.slt.clusters()``, of one run that holds token ids.
    tokenizer : Tokenizer, optional
        Anything with a ``decode``; without one token ids are shown.
    num_examples : int, default: 3
        Tokens of each cluster that are shown in their texts, spread over the cluster.
    context : int, default: 8
        Tokens before each that are shown.

    Returns
    -------
    pandas.DataFrame
        A row for each cluster, the largest first: ``cluster``, ``size``, ``share`` of all tokens, ``conductance``, ``tokens``
        (the most frequent ones and their shares of the cluster), ``examples`` (text up to the token, which stands in ⟦ ⟧).

    Raises
    ------
    InvalidInputError
        If this is no result of clusters with token ids.
    """
    import pandas as pd

    if not isinstance(clusters, xr.Dataset) or not {CLUSTER, "token_ids"} <= set(clusters.data_vars):
        raise InvalidInputError(
            "`cluster_table` takes a result of `tree.slt.clusters()` of a run that holds token ids."
        )
    num_examples = arguments.count("num_examples", num_examples, least=0)
    context = arguments.count("context", context, least=0)
    labels, values = clusters[CLUSTER].to_numpy(), clusters["conductance"].to_numpy()
    texts, ids = _Texts(clusters["token_ids"].to_numpy(), tokenizer), clusters["token_ids"].to_numpy()
    text, position = clusters["text"].to_numpy(), clusters["position"].to_numpy()
    rows = []
    for label in range(int(labels.max(initial=-1)) + 1):
        members = np.flatnonzero(labels == label)
        common = Counter(ids[text[members], position[members]].tolist()).most_common(_TOKENS)
        first = {token: members[ids[text[members], position[members]] == token][0] for token, _ in common}
        shown = members[np.unique(np.linspace(0, len(members) - 1, num_examples).round().astype(int))]
        rows.append(
            {
                "cluster": label,
                "size": len(members),
                "share": len(members) / len(labels),
                "conductance": values[members[0]],
                "tokens": "  ".join(
                    f"{texts.token(text[first[token]], position[first[token]])} {count / len(members):.0%}"
                    for token, count in common
                ),
                "examples": [texts.before(text[row], position[row], context) for row in shown],
            }
        )
    columns = ["cluster", "size", "share", "conductance", "tokens", "examples"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["size", "cluster"], ascending=[False, True], ignore_index=True)


class _Texts:
    """The text that each token adds, decoded when it is asked for and remembered."""

    def __init__(self, token_ids: np.ndarray, tokenizer: Tokenizer | None) -> None:
        self._token_ids, self._tokenizer = token_ids, tokenizer
        self._pieces: dict[int, list[str]] = {}

    def _of(self, text: int) -> list[str]:
        if text not in self._pieces:
            ids = self._token_ids[text]
            self._pieces[text] = [visible(piece) for piece in pieces([int(i) for i in ids[ids >= 0]], self._tokenizer)]
        return self._pieces[text]

    def token(self, text: int, position: int) -> str:
        return self._of(int(text))[position]

    def before(self, text: int, position: int, context: int) -> str:
        own = self._of(int(text))
        return f"{''.join(own[max(0, position - context) : position])}⟦{own[position]}⟧"
