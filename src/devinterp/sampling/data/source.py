"""A data set as its rows can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from devinterp.sampling.data.columns import Batch
from devinterp.sampling.data.rows import ATTENTION_MASK, INPUT_IDS, LABELS, Rows, as_rows

#: The columns that the loss of the next token reads.
OF_TOKENS = (INPUT_IDS, ATTENTION_MASK, LABELS)
#: Which columns to read: of those there are, those wanted.
Wanted = Callable[[Sequence[Any]], list[Any]]


@final
@dataclass(frozen=True)
class RowSource:
    """A data set as its rows can be read.

    Parameters
    ----------
    name : str
        What it is, for messages.
    num_rows : int
        Of all of it.
    stack : callable
        ``stack(ids, wanted)`` returns the rows `ids`, stacked, with the columns that ``wanted(columns)`` names.
    """

    name: str
    num_rows: int
    stack: Callable[[np.ndarray, Wanted], Batch]

    def read(self, ids: np.ndarray, *, only_tokens: bool = False) -> Rows:
        """Return rows of the data set.

        Parameters
        ----------
        ids : numpy.ndarray
            Rows to read, in any order, with repeats.
        only_tokens : bool, default: False
            Whether, of rows with ``input_ids``, only these are read, with their mask and labels.

        Returns
        -------
        Rows
            The distinct rows. Token ids that come alone are a tensor; other data keep the structure of the rows.

        Raises
        ------
        InvalidInputError
            If the rows do not stack (ragged sequences).
        """
        distinct = np.unique(ids)
        return as_rows(self.stack(distinct, _tokens_of if only_tokens else list), distinct)


def _tokens_of(columns: Sequence[Any]) -> list[Any]:
    return [key for key in columns if key in OF_TOKENS] if INPUT_IDS in columns else list(columns)
