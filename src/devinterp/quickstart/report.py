"""What the quickstart prints: the plan, learning coefficients with their errors, what they say, and the next lines to type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from rich.console import Console
from rich.table import Table

from devinterp import plugins, runs, schema
from devinterp.analyses.common.convergence import summary
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.mean_losses import draw_means, share_minibatches, start_mean
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.quickstart.recipes import Recipe

if TYPE_CHECKING:
    from devinterp.types import Plot

#: A number is believed if chains agree so far (the limit of docs/errors.md is for samples ten times as large), and of so many
#: effective draws.
MAX_RHAT, MIN_ESS = 1.05, 100


def plan(dataset: str, observables: tuple[str, ...], recipe: Recipe) -> str:
    """Return what is about to be sampled, in words."""
    sampling = recipe.sampling
    spacing = sampling.get("num_steps_bw_draws", 1)
    steps = sampling["num_burnin_steps"] + sampling["num_draws"] * spacing
    parts = ", ".join(recipe.components) or "every weight"
    return (
        f"Sampling {parts} on {dataset!r} with {sampling['sampling_method']}: {sampling['num_chains']} chains of {steps} steps "
        f"({sampling['num_burnin_steps']} of burn-in), {sampling['batch_size']} x {recipe.length} tokens each; at each of "
        f"{sampling['num_draws']} draws the losses on {', '.join(map(repr, observables))}.\n"
        f"lr {sampling['lr']:g}, n_beta {sampling['n_beta']:g}, localization {sampling['localization']:g}, "
        f"init_seed {sampling['init_seed']}"
    )


#: A component is more sensitive to one text where its coefficients differ by more than this share of them, at this level.
_SHARE, _LEVEL = 0.05, 0.99


def report(console: Console, tree: xr.DataTree, tokenizer: Any, output: Path) -> None:
    """Print the learning coefficients of a run and draw its pictures, where the plots plugin is installed."""
    names = schema.observable_names(tree)
    llc, difference = estimates(tree, names)
    findings = tree.slt.diagnose()
    console.print(_table(llc, names, difference))
    if difference is not None:
        rejected = findings.attrs["verdict"] == "reject"
        console.print(
            "What differs between them is not said of a run that is rejected."
            if rejected
            else comparison(llc, difference, names[0], names[1])
        )
    worst, least = convergence(llc, difference)
    console.print(f"Over all of these numbers: R-hat at most {worst:.2f}, at least {least:.0f} effective draws.")
    if not (worst <= MAX_RHAT and least >= MIN_ESS):
        console.print(
            f"[bold]Not to be believed yet[/bold]: R-hat should be at most {MAX_RHAT} and effective draws at least {MIN_ESS}. "
            "Take more with --num-draws."
        )
    console.print(verdict(findings, output / "run.zarr"))
    _draw(console, tree, tokenizer, output)


def verdict(findings: xr.Dataset, path: Path) -> str:
    """Say in a line whether the numbers can be used, and what was found that may make them wrong."""
    serious = (findings["severity"] == "warning") | (findings["severity"] == "reject")
    codes = list(dict.fromkeys(findings["code"].where(serious, drop=True).to_numpy().tolist()))
    why = f" ({', '.join(codes)}); why: devinterp diagnose {path}" if codes else ""
    return f"Verdict:  [bold]{findings.attrs['verdict']}[/bold]{why}"


def estimates(tree: xr.DataTree, names: list[str]) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return the learning coefficients of each restriction, and of two observables how much that on the second is larger."""
    llc = tree.slt.llc().compute()
    llc = llc if schema.RESTRICTION in llc.dims else llc.expand_dims({schema.RESTRICTION: tree[schema.RESTRICTION]})
    return llc, second_less_first(tree, names[0], names[1]) if len(names) == 2 else None


def second_less_first(tree: xr.DataTree, first: str, second: str) -> xr.Dataset:
    r"""Compute how much larger the paired LLC on one observable is than on another, from both at the same draws.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    first, second : str
        Names of the observables.

    Returns
    -------
    xarray.Dataset
        ``difference``, ``difference_se`` (for `confidence_interval`), ``rhat`` and ``ess``, over ``restriction``.
    """
    rises = [
        draw_means(tree, f"{schema.OBSERVABLES}/{name}") - start_mean(tree, f"{schema.OBSERVABLES}/{name}")
        for name in (first, second)
    ]
    series = float(runs.settings(tree)["n_beta"]) * (rises[1] - rises[0])
    error = mean_error(series, shared=share_minibatches(tree))
    variables = {"difference": series.mean([schema.CHAIN, schema.DRAW], skipna=False), "difference_se": error}
    labels = {schema.RESTRICTION: tree[schema.RESTRICTION].variable}
    return xr.Dataset({**variables, **summary(series)[["rhat", "ess"]].variables}, labels).compute()


def _table(llc: xr.Dataset, names: list[str], difference: xr.Dataset | None) -> Table:
    table = Table(title="local learning coefficient, paired, with its standard error")
    table.add_column("sampled")
    for name in names:
        table.add_column(f"on {name}", justify="right")
    if difference is not None:
        table.add_column(f"{names[1]} - {names[0]}", justify="right")
    for component in llc[schema.RESTRICTION].values.tolist():
        of_component = llc.sel({schema.RESTRICTION: component})
        cells = [
            _with_error(one.observable_llc_mean, one.observable_llc_se)
            for one in (of_component.sel(observable=name) for name in names)
        ]
        if difference is not None:
            one = difference.sel({schema.RESTRICTION: component})
            cells.append(_with_error(one.difference, one.difference_se))
        table.add_row(str(component), *cells)
    return table


def _with_error(value: xr.DataArray, error: xr.DataArray) -> str:
    return f"{float(value):.2f} ± {float(error):.2f}"


def comparison(llc: xr.Dataset, difference: xr.Dataset, first: str, second: str) -> str:
    """Say of which components the loss on one observable rises more, by a share of it that is worth speaking of.

    The passages that are observed are few: of a smaller share another seed, or other passages, may say the opposite.
    """
    interval = confidence_interval(difference, "difference", level=_LEVEL)
    least = _SHARE * abs(llc.observable_llc_mean.sel(observable=[first, second]).mean("observable"))
    more, less = ((each > least).values for each in (interval.lower, -interval.upper))
    components = difference[schema.RESTRICTION].values
    lines = [
        f"More sensitive to {name} than to {other}: {', '.join(components[apart])}."
        for name, other, apart in ((second, first, more), (first, second, less))
        if apart.any()
    ]
    equal = components[~(more | less)]
    if len(equal):
        beyond = f"No difference that is surely ({_LEVEL:.0%}) larger than {_SHARE:.0%}"
        lines.append(f"{beyond}: {', '.join(equal)}.")
    return "\n".join(lines)


def convergence(llc: xr.Dataset, difference: xr.Dataset | None) -> tuple[float, float]:
    """Return the largest R-hat and the smallest effective sample size of all that is printed; NaN where one has none."""
    rhats, sizes = [llc.observable_rhat], [llc.observable_ess]
    if difference is not None:
        rhats, sizes = [*rhats, difference.rhat], [*sizes, difference.ess]
    return (
        max(float(each.max(skipna=False)) for each in rhats),
        min(float(each.min(skipna=False)) for each in sizes),
    )


def _draw(console: Console, tree: xr.DataTree, tokenizer: Any, output: Path) -> None:
    installed: dict[str, Plot] = dict(plugins.plots())
    if not {"llc", "trace", "tokens"} <= set(installed):
        console.print("No pictures: install devinterp-plots.")
        return
    last, component = schema.observable_names(tree)[-1], str(tree[schema.RESTRICTION].to_numpy()[0])
    pictures = {
        "llc": tree.slt.plot.llc(),
        "trace": tree.slt.plot.trace(),
        "tokens": tree.slt.plot.tokens(observable=last, restriction=component, tokenizer=tokenizer),
    }
    for name, picture in pictures.items():
        picture.savefig(output / f"{name}.png")
    console.print(f"A page:   devinterp report {output / 'run.zarr'} -o {output / 'report.html'}")
    console.print(f"Store:    {output / 'run.zarr'}\nPictures: {', '.join(str(output / f'{n}.png') for n in pictures)}")


def next_steps(path: Path, tree: xr.DataTree) -> str:
    """Return the three lines that open a store and go on."""
    observable = schema.observable_names(tree)[-1]
    return (
        f"    import devinterp\n"
        f"    tree = devinterp.open({str(path)!r})\n"
        f"    tree.slt.bif(method='sequence', loss_keys={observable!r}, standard_errors=True)\n"
    )
