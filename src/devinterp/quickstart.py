"""The whole path once, for a newcomer: sample a language model, estimate its learning coefficient, draw pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from devinterp import sources
from devinterp.errors import InvalidInputError
from devinterp.tiny_model import tiny_model

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Recipe:
    """Settings that give a healthy trace on one kind of model, and the amount of data.

    Parameters
    ----------
    length : int
        Tokens of a sequence.
    num_sequences : int
        Sequences of each text, at most.
    sampling : dict
        Arguments of `devinterp.slt.sampling.sample`.
    """

    length: int
    num_sequences: int
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, length: int | None, **sampling: Any) -> Recipe:
        """Return the recipe with another length and other arguments, where these are not None."""
        changes = {name: value for name, value in sampling.items() if value is not None}
        return replace(self, length=self.length if length is None else length, sampling={**self.sampling, **changes})


#: Found by trying a grid of settings: the trace rises at once, levels off before the first draw, and chains agree.
PRETRAINED = Recipe(
    length=128,
    num_sequences=512,
    sampling={
        "sampling_method": "rmsprop_sgld",
        "lr": 1e-5,
        "n_beta": 30.0,
        "localization": 6e3,
        "num_chains": 3,
        "num_burnin_steps": 7,
        "num_draws": 7,
        "batch_size": 4,
        "batches_per_draw": 1,
        "num_init_loss_batches": 8,
    },
)

TINY = Recipe(
    length=64,
    num_sequences=512,
    sampling={
        "sampling_method": "sgld",
        "lr": 1e-4,
        "n_beta": 100.0,
        "localization": 300.0,
        "num_chains": 4,
        "num_burnin_steps": 50,
        "num_draws": 50,
        "batch_size": 16,
        "batches_per_draw": 1,
        "num_init_loss_batches": 16,
    },
)


def quickstart(
    *,
    model: str = sources.SMOLLM2,
    dataset: str = sources.PROSE,
    observables: tuple[str, ...] = (sources.PROSE, sources.CODE),
    output: Path = Path("quickstart-output"),
    tiny: bool = False,
    num_chains: int | None = None,
    num_draws: int | None = None,
    lr: float | None = None,
    n_beta: float | None = None,
    localization: float | None = None,
    length: int | None = None,
    column: str = "text",
    progress: bool | None = None,
) -> xr.DataTree:
    """Sample a language model around its weights, print its learning coefficient, and draw pictures of the run.

    Parameters
    ----------
    model : str, default: "smollm2"
        ``smollm2`` (comes with the installation), a directory, or a model on the HuggingFace hub.
    dataset : str, default: "prose"
        What to sample on: ``prose``, ``code``, a text or .jsonl file, a directory, or a dataset on the HuggingFace hub.
    observables : tuple of str, default: ("prose", "code")
        Texts whose losses are recorded at every draw; each as `dataset`.
    output : Path, default: Path("quickstart-output")
        Folder for the store and the pictures. A finished run of the same settings there is shown again; another is an error.
    tiny : bool, default: False
        Train a small model on the spot and sample that, in seconds.
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
        The run, lazy.
    """
    console, began = Console(), time.monotonic()
    recipe = (TINY if tiny else PRETRAINED).changed(
        length, num_chains=num_chains, num_draws=num_draws, lr=lr, n_beta=n_beta, localization=localization
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
    console.print(_plan(dataset, observables, recipe))
    tree = _sample(network, texts, dataset, observables, recipe.sampling, output, progress)
    report(console, tree, tokenizer, output)
    console.print(f"Done in {time.monotonic() - began:.0f} s. To go on in Python:\n")
    console.print(
        next_steps(output / "run.zarr", _label(observables[-1])), highlight=False, markup=False, soft_wrap=True
    )
    return tree


def _trained_here(length: int) -> tuple[Any, Any]:
    """Return a small model and its tokenizer; from here on torch uses one thread in this process."""
    import torch

    torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for each other
    return tiny_model(length=length)


def _sample(
    network: Any,
    texts: Mapping[str, Any],
    dataset: str,
    observables: tuple[str, ...],
    sampling: Mapping[str, Any],
    output: Path,
    progress: bool | None,
) -> xr.DataTree:
    from devinterp.sampling.estimate import DryRun  # imports torch
    from devinterp.slt.sampling import sample

    labels = {_label(name): texts[name] for name in observables}
    if len(labels) < len(set(observables)):
        raise InvalidInputError(
            f"two of the observables {observables} would both be called by their last part: rename one."
        )
    output.mkdir(parents=True, exist_ok=True)
    tree = sample(network, texts[dataset], labels, output_path=output / "run.zarr", progress=progress, **sampling)
    assert not isinstance(tree, DryRun)
    return tree


def _label(name: str) -> str:
    """Return the last part of a path or dataset name, for a group of the store."""
    return Path(name).name.replace(":", "-")


def report(console: Console, tree: xr.DataTree, tokenizer: Any, output: Path) -> None:
    """Print the learning coefficients of a run and draw its pictures, where the plots plugin is installed."""
    from devinterp.cli.llc_summary import llc_summary  # that package imports this module

    llc = tree.slt.llc().compute()
    console.print(*llc_summary(llc), sep="\n", highlight=False)
    from devinterp import plugins

    if not {"trace", "tokens"} <= set(plugins.plots()):
        console.print("No pictures: install devinterp-plots.")
        return
    tree.slt.plot.trace().savefig(output / "trace.png")
    name = llc.observable.values.tolist()[-1]
    tree.slt.plot.tokens(observable=name, tokenizer=tokenizer).savefig(output / "tokens.png")
    console.print(f"Store:    {output / 'run.zarr'}\nPictures: {output / 'trace.png'}, {output / 'tokens.png'}")


def next_steps(path: Path, observable: str) -> str:
    """Return the three lines that open a store and go on."""
    return (
        f"    import devinterp\n"
        f"    tree = devinterp.open({str(path)!r})\n"
        f"    tree.slt.token_llc(observable={observable!r}).llc.mean('sequence').plot()\n"
    )


def _plan(dataset: str, observables: tuple[str, ...], recipe: Recipe) -> str:
    sampling = recipe.sampling
    steps = sampling["num_burnin_steps"] + sampling["num_draws"]
    return (
        f"Sampling on {dataset!r} with {sampling['sampling_method']}: {sampling['num_chains']} chains of {steps} steps "
        f"({sampling['num_burnin_steps']} of burn-in), {sampling['batch_size']} x {recipe.length} tokens each; at every draw "
        f"the losses on {', '.join(map(repr, observables))}.\n"
        f"lr {sampling['lr']:g}, n_beta {sampling['n_beta']:g}, localization {sampling['localization']:g}"
    )
