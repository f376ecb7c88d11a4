"""Load a model and texts, sample parts of the model, and report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from devinterp import sources
from devinterp.errors import InvalidInputError
from devinterp.quickstart.recipes import COMPONENTS, TINY, WHOLE, Recipe
from devinterp.quickstart.report import next_steps, plan, report
from devinterp.tiny_model import tiny_model

if TYPE_CHECKING:
    import xarray as xr


#: Key of the run's notes under which the model and the data are named.
NOTE = "devinterp quickstart"


def quickstart(
    *,
    model: str = sources.SMOLLM2,
    dataset: str = sources.PROSE,
    observables: tuple[str, ...] = (sources.PROSE, sources.CODE),
    components: tuple[str, ...] = (),
    output: Path = Path("quickstart-output"),
    full: bool = False,
    tiny: bool = False,
    seed: int = 0,
    num_chains: int | None = None,
    num_draws: int | None = None,
    lr: float | None = None,
    n_beta: float | None = None,
    localization: float | None = None,
    length: int | None = None,
    column: str = "text",
    progress: bool | None = None,
) -> xr.DataTree:
    """Sample parts of a language model around their weights, print their learning coefficients, and draw pictures of the run.

    Parameters
    ----------
    model : str, default: "smollm2"
        ``smollm2`` (comes with the installation), a directory, or a model on the HuggingFace hub.
    dataset : str, default: "prose"
        What to sample on: ``prose``, ``code``, a text or .jsonl file, a directory, or a dataset on the HuggingFace hub.
    observables : tuple of str, default: ("prose", "code")
        Texts whose losses are recorded at every draw; each as `dataset`. Of two, the report says which component is more
        sensitive to the second.
    components : tuple of str, optional
        Weight restrictions, each sampled by itself (docs/weight-restrictions.md); default: parts of the last layer of the
        bundled model. Another model needs names of its own parts, or `full`.
    output : Path, default: Path("quickstart-output")
        Folder for the store and the pictures. A finished run of the same settings there is shown again; another is an error.
    full : bool, default: False
        Sample every weight at once. The few draws that fit into minutes are too few to be believed.
    tiny : bool, default: False
        Train a small model on the spot and sample that, in seconds.
    seed : int, default: 0
        Of the data order and the noise, at least 0; two seeds have no noise in common.
    num_chains, num_draws : int, optional
        Chains, and draws of each.
    lr, n_beta, localization : float, optional
        Step size, inverse temperature times sample size, and pull towards the weights; the defaults suit the bundled model.
    length : int, optional
        Tokens of a sequence.
    column : str, default: "text"
        Where the text is, in a .jsonl file or a dataset.
    progress : bool, optional
        Whether to show progress bars. None: in a terminal.

    Returns
    -------
    xarray.DataTree
        The run, with its losses.
    """
    console, began = Console(), time.monotonic()
    if seed < 0 or (full and components):
        raise InvalidInputError(f"`seed` (={seed}) must be at least 0, and `full` goes without `components`.")
    chosen = TINY if tiny else WHOLE if full else COMPONENTS
    recipe = chosen.changed(
        components=components,
        length=length,
        seed=seed,
        num_chains=num_chains,
        num_draws=num_draws,
        lr=lr,
        n_beta=n_beta,
        localization=localization,
    )
    with console.status("training a small model" if tiny else "loading the model"):
        network, tokenizer = _trained_here(recipe.length) if tiny else sources.load_model(model)
    with console.status("tokenizing the texts"):
        texts = {
            name: sources.load_sequences(
                name, tokenizer, length=recipe.length, limit=recipe.num_sequences, column=column
            )
            for name in dict.fromkeys((dataset, *observables))
        }
    num_parameters = sum(p.numel() for p in network.parameters())
    console.print(f"[bold]{'a small model' if tiny else model}[/bold]: {num_parameters:,} parameters")
    console.print(plan(dataset, observables, recipe))
    notes = {NOTE: {"model": "" if tiny else model, "dataset": dataset, "observable": _named(observables)}}
    tree = _sample(network, texts, dataset, observables, recipe, output, progress, notes)
    report(console, tree, tokenizer, output)
    console.print(f"Done in {time.monotonic() - began:.0f} s. To go on in Python:\n")
    console.print(next_steps(output / "run.zarr", tree), highlight=False, markup=False, soft_wrap=True)
    return tree


def _trained_here(length: int) -> tuple[Any, Any]:
    """Return a small model and its tokenizer; from here on torch uses one thread in this process."""
    import torch

    torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for each other
    return tiny_model(length=length, texts=(sources.PROSE, sources.CODE))


def _sample(
    network: Any,
    texts: Mapping[str, Any],
    dataset: str,
    observables: tuple[str, ...],
    recipe: Recipe,
    output: Path,
    progress: bool | None,
    notes: Mapping[str, Any],
) -> xr.DataTree:
    from devinterp.sampling.estimate import DryRun  # imports torch
    from devinterp.slt.sampling import sample

    if len(set(map(_label, observables))) < len(set(observables)):
        raise InvalidInputError(
            f"two of the observables {observables} would both be called by their last part: rename one."
        )
    labels = {_label(name): recipe.observed(texts[name]) for name in observables}
    output.mkdir(parents=True, exist_ok=True)
    tree = sample(
        network,
        texts[dataset],
        labels,
        output_path=output / "run.zarr",
        progress=progress,
        notes=notes,
        **recipe.arguments(),
    )
    assert not isinstance(tree, DryRun)
    return tree


def _named(observables: tuple[str, ...]) -> list[str]:
    """Return the observables with their sources, as ``devinterp sample`` notes them."""
    return [f"{_label(name)}={name}" for name in observables]


def _label(name: str) -> str:
    """Return the last part of a path or dataset name, for a group of the store."""
    return Path(name).name.replace(":", "-")
