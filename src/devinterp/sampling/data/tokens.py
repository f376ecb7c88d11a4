"""Token ids among the columns of rows: the ids alone, which of their losses count, and whether a model accepts them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.rows import ATTENTION_MASK, IGNORED, INPUT_IDS, LABELS, Rows, unless_all
from devinterp.schema import POSITION, TOKEN


def as_tokens(rows: Rows, *, name: str) -> Rows:
    """Return the token ids of rows that hold other columns beside them, for the loss of the next token.

    Where ``attention_mask`` is 0 there is padding; tokens whose ``labels`` are -100 are no targets.

    Raises
    ------
    InvalidInputError
        If the mask or the labels do not fit the tokens.
    """
    if not isinstance(rows.data, dict):
        return rows
    columns = rows.data
    if INPUT_IDS not in columns:
        if ATTENTION_MASK in columns:
            raise InvalidInputError(f"{name} has an `attention_mask` but no `input_ids`.")
        return rows
    tokens, mask, labels = (columns.get(key) for key in (INPUT_IDS, ATTENTION_MASK, LABELS))
    if not isinstance(tokens, Tensor):
        raise InvalidInputError(f"`input_ids` of {name} must be whole numbers, as many in each row.")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != tokens.shape):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidInputError(f"`attention_mask` of {name} has shape {got}, expected {tuple(tokens.shape)}.")
    attention_mask = unless_all(None if mask is None else mask.bool())
    if labels is not None and _are_targets(labels):
        _check_labels(labels, tokens, attention_mask, rows, name)
    else:
        labels = None
    return Rows(tokens, rows.ids, attention_mask, _counted(attention_mask, labels, shifted=True))


def counting(rows: Rows, loss_shape: tuple[int, ...], loss_dims: tuple[str, ...]) -> Rows:
    """Return rows of columns with the losses of a user's function that count, if there is one for each token.

    Parameters
    ----------
    rows : Rows
        Columns, with or without token ids.
    loss_shape : tuple of int
        Trailing shape of the losses.
    loss_dims : tuple of str
        Names of these dims: ``("token",)`` for a loss of each token, ``("position",)`` for one of each but the first,
        which nothing predicts.

    Returns
    -------
    Rows
        The same where losses are not per token, or nothing is masked.
    """
    tokens = rows.token_ids
    if not isinstance(rows.data, dict) or tokens is None or loss_dims not in ((POSITION,), (TOKEN,)):
        return rows
    mask, labels = (rows.data.get(key) for key in (ATTENTION_MASK, LABELS))
    fitting = [part if isinstance(part, Tensor) and part.shape == tokens.shape else None for part in (mask, labels)]
    shifted = loss_dims == (POSITION,)
    if loss_shape[0] != tokens.shape[1] - shifted:
        return rows
    attention_mask = None if fitting[0] is None else fitting[0].bool()
    return replace(rows, counted=_counted(attention_mask, fitting[1], shifted=shifted))


def _counted(attention_mask: Tensor | None, labels: Tensor | None, *, shifted: bool) -> Tensor | None:
    """Return which losses count: of tokens that are text (and predicted by text) and whose label is not -100."""
    masks = []
    if attention_mask is not None:
        masks.append(attention_mask[:, :-1] & attention_mask[:, 1:] if shifted else attention_mask)
    if labels is not None:
        masks.append((labels[:, 1:] if shifted else labels) != IGNORED)
    if not masks:
        return None
    return unless_all(masks[0] if len(masks) == 1 else masks[0] & masks[1].to(masks[0].device))


def _are_targets(labels: object) -> bool:
    """Say whether labels are of tokens; a class of each row is no concern of the next token's loss."""
    return isinstance(labels, Tensor) and labels.ndim >= 2 and not labels.is_floating_point()


def _check_labels(labels: Tensor, tokens: Tensor, attention_mask: Tensor | None, rows: Rows, name: str) -> None:
    if labels.shape != tokens.shape:
        raise InvalidInputError(
            f"`labels` of {name} have shape {tuple(labels.shape)}, `input_ids` {tuple(tokens.shape)}: the default loss "
            "predicts the next token, and -100 leaves one out. For other labels pass `loss_fn=`, or leave the column out."
        )
    different = (labels != tokens) & (labels != IGNORED)
    if attention_mask is not None:
        different &= attention_mask
    different[:, 0] = False  # nothing predicts the first token
    if bool(different.any()):
        row, token = (int(i) for i in different.nonzero()[0])
        raise InvalidInputError(
            f"`labels` of {name} hold {int(labels[row, token])} where `input_ids` hold {int(tokens[row, token])} (row "
            f"{rows.ids[row]}, token {token}): the default loss predicts the next of `input_ids`, so that labels must be "
            "these ids, or -100 where no loss is to count. For other targets (shifted, or masked words) pass `loss_fn=`."
        )


def check_tokens(rows: Rows, vocab_size: int | None, *, name: str, check_range: bool = True) -> None:
    """Raise unless rows are token ids that a model accepts.

    Raises
    ------
    InvalidInputError
        Naming the dataset, the offending value and the valid range.
    """
    data = rows.data
    if isinstance(data, dict):
        raise InvalidInputError(
            f"{name} has no `input_ids` column; it has {', '.join(map(repr, data))}. Tokenize it, for example with "
            "`devinterp.utils.tokenize_and_concatenate`, or pass `loss_fn=` to use these columns."
        )
    if rows.token_ids is None or not isinstance(data, Tensor):
        if isinstance(data, Tensor):
            got = f"{data.dtype} of shape {tuple(data.shape)}"
        else:
            got = "rows of several tensors" if isinstance(data, tuple) else f"rows of {type(data[0]).__name__}"
        raise InvalidInputError(
            f"{name} must hold whole-number token ids of shape (sequence, token); got {got}. For other data pass `loss_fn=`."
        )
    if data.shape[1] < 2:
        raise InvalidInputError(
            f"sequences of {name} have length {data.shape[1]}; at least 2 tokens are needed to predict one."
        )
    if rows.counted is not None and not bool(rows.counted.any()):
        raise InvalidInputError(f"no token of {name} counts: all are padding, or have the label -100.")
    if check_range and data.numel():
        _check_range(data, vocab_size, name)


def _check_range(data: Tensor, vocab_size: int | None, name: str) -> None:
    low, high = int(data.min()), int(data.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        limit = "" if vocab_size is None else f" to {vocab_size - 1}"
        raise InvalidInputError(
            f"{name} holds token id {low if low < 0 else high}, outside the model's vocabulary (0{limit}): was it tokenized "
            "with the model's own tokenizer?"
        )
