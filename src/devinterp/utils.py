"""Small helpers under the import paths of DevInterp 2 and 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devinterp.errors import InvalidInputError
from devinterp.evaluation import (
    Outputs,
    cycle,
    evaluate,
    get_init_loss_full_batch,
    get_init_loss_multi_batch,
    get_init_loss_one_batch,
    make_evaluate,
    plot_trace,
    prepare_input,
    split_results,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Outputs",
    "cycle",
    "default_nbeta",
    "evaluate",
    "get_init_loss_full_batch",
    "get_init_loss_multi_batch",
    "get_init_loss_one_batch",
    "make_evaluate",
    "pack_texts",
    "plot_trace",
    "prepare_input",
    "set_seed",
    "split_results",
    "tokenize_and_concatenate",
]


def default_nbeta(
    dataloader: int | Any, gradient_accumulation_steps: int = 1, *, grad_accum_steps: int | None = None
) -> float:
    r"""Return :math:`n\beta = b / \log b` for an effective batch of :math:`b` samples.

    Parameters
    ----------
    dataloader : int or torch.utils.data.DataLoader
        Samples of a minibatch, at least 2 in effect; of a DataLoader its ``batch_size`` is used.
    gradient_accumulation_steps : int, default: 1
        Minibatches of a step.
    grad_accum_steps : int, optional
        DevInterp 1's name of it.

    Returns
    -------
    float
        The inverse temperature times the sample size, with :math:`\beta^* = 1/\log n` of Watanabe's WBIC [1]_.

    Raises
    ------
    InvalidInputError
        If the effective batch is smaller than 2.

    References
    ----------
    .. [1] S. Watanabe. A widely applicable Bayesian information criterion. arXiv:1208.6338.
    """
    size = getattr(dataloader, "batch_size", dataloader)
    total = size * (gradient_accumulation_steps if grad_accum_steps is None else grad_accum_steps)
    if total < 2:
        raise InvalidInputError(f"the effective batch size (={total}) must be at least 2, because log(1) is 0.")
    return float(total / math.log(total))


def set_seed(seed: int, device: str | None = None) -> None:
    """Seed the global random generators of torch, numpy and Python, as scripts do; runs have generators of their own.

    Parameters
    ----------
    seed : int
        For all of them.
    device : str, optional
        Ignored: torch seeds all devices.
    """
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global generator is what scripts mean
    torch.manual_seed(seed)


def tokenize_and_concatenate(
    dataset: Dataset,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = None,
) -> Dataset:
    """Return a dataset of token sequences of one length, packed from texts.

    Texts are joined with the end-of-sequence token between them and cut into pieces; what does not fill a last piece is
    dropped. Each piece starts with the beginning-of-sequence token if asked.

    Parameters
    ----------
    dataset : datasets.Dataset
        With texts in `column_name`.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's own tokenizer.
    streaming : bool, default: False
        Whether `dataset` is an IterableDataset, which is then mapped lazily in one process.
    max_length : int, default: 1024
        Tokens of a sequence, at least 2.
    column_name : str, default: "text"
        Where the texts are.
    add_bos_token : bool, default: True
        Whether each sequence starts with ``tokenizer.bos_token_id``.
    num_proc : int, optional
        Processes that tokenize.

    Returns
    -------
    datasets.Dataset
        With one column ``input_ids``, in torch format.

    Raises
    ------
    InvalidInputError
        If the column is missing, `max_length` is too small, or the tokenizer lacks a token that is needed.
    """
    if dataset.column_names is not None and column_name not in dataset.column_names:
        raise InvalidInputError(f"the dataset has no column {column_name!r}; it has {', '.join(dataset.column_names)}.")
    if max_length < 2:
        raise InvalidInputError(f"`max_length` (={max_length}) must be at least 2.")

    def pack(rows: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        return {"input_ids": pack_texts(rows[column_name], tokenizer, max_length, add_bos_token=add_bos_token)}

    options = {} if streaming else {"num_proc": num_proc}
    packed = dataset.map(pack, batched=True, remove_columns=dataset.column_names, **options)
    return packed.with_format("torch")


def pack_texts(texts: list[str], tokenizer: Any, max_length: int, *, add_bos_token: bool) -> list[list[int]]:
    """Return token sequences of one length from texts joined by the end-of-sequence token; see `tokenize_and_concatenate`.

    Raises
    ------
    InvalidInputError
        If the tokenizer has no token to put between texts.
    """
    separator = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else separator
    if separator is None:
        raise InvalidInputError(
            "the tokenizer has neither an end- nor a beginning-of-sequence token to put between texts."
        )
    body = max_length - 1 if add_bos_token else max_length
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    stream = [token for text in encoded for token in (*text, separator)]
    pieces = [stream[i : i + body] for i in range(0, len(stream) - body + 1, body)]
    return [[bos, *piece] if add_bos_token else piece for piece in pieces]
