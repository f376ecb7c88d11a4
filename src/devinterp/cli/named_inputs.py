"""A model and data that are given by name: read for a command, and noted so that another command can read them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rich.console import Console

from devinterp import sources
from devinterp.cli.options import pairs_of


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What was read.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    dataset : object
        What to sample on.
    observables : dict of str to object or None
        Data by the name of the observable; None without any.
    """

    model: Any
    dataset: Any
    observables: dict[str, Any] | None


@final
@dataclass(frozen=True, slots=True)
class NamedInputs:
    """The options of a command that name its model and data.

    Parameters
    ----------
    model, dataset : str
        Names, as `devinterp.sources` takes them.
    observable : sequence of str
        Each as name=source or source.
    length, num_sequences : int
        Tokens of a sequence, and sequences to take of each source.
    column, split : str
        Where the text is in a file or data set, and which split of a data set on the hub.
    """

    model: str
    dataset: str
    observable: Sequence[str]
    length: int
    num_sequences: int
    column: str
    split: str

    def _observables(self) -> dict[str, str]:
        return pairs_of(self.observable, "observable", alone=True)

    def read(self, console: Console) -> Inputs:
        """Return the model and the data, each source read once; the console says what is being loaded."""
        named = self._observables()
        with console.status("loading the model"):
            network, tokenizer = sources.load_model(self.model)
        with console.status("reading data"):
            read = {
                source: load_data(
                    source,
                    tokenizer,
                    length=self.length,
                    limit=self.num_sequences,
                    column=self.column,
                    split=self.split,
                )
                for source in dict.fromkeys([self.dataset, *named.values()])
            }
        return Inputs(network, read[self.dataset], {name: read[source] for name, source in named.items()} or None)

    def noted(self) -> dict[str, Any]:
        """Return the options as JSON-able values that mean the same in any directory."""
        return {
            "model": _absolute(self.model),
            "dataset": _absolute(self.dataset),
            "observable": [f"{name}={_absolute(source)}" for name, source in self._observables().items()],
            "length": self.length,
            "num_sequences": self.num_sequences,
            "column": self.column,
            "split": self.split,
        }


def load_data(source: str, tokenizer: Any, *, length: int, limit: int, column: str, split: str) -> Any:
    """Return the sequences of a source: token ids from an ``.npy`` file, or text cut into sequences of `length` tokens.

    Parameters
    ----------
    source : str
        As for `devinterp.sources.load_texts`, or the name of an ``.npy`` file.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's own.
    length, limit : int
        Tokens of a sequence, for text, and most sequences to take.
    column, split : str
        As for `devinterp.sources.load_texts`.

    Returns
    -------
    numpy.ndarray or datasets.Dataset
        What `devinterp.slt.sampling.sample` takes.

    Raises
    ------
    InvalidInputError
        If the source cannot be read or is too small.
    """
    if source.endswith(".npy"):
        return sources.load_token_ids(source, limit=limit)
    return sources.load_sequences(source, tokenizer, length=length, limit=limit, column=column, split=split)


def _absolute(source: str) -> str:
    """Return the absolute path of what is on disk, and any other name as it is."""
    return str(Path(source).absolute()) if Path(source).exists() else source
