"""Masks as something to look at: a tree of modules with counts and bars, in a terminal or a notebook."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text
from rich.tree import Tree
from torch import nn

from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import ParamMasks, as_param_masks

BAR = 16


@dataclass(frozen=True)
class Preview:
    """Masks drawn as a tree; `rich` prints it, notebooks show it as HTML.

    Parameters
    ----------
    masks : ParamMasks
        What is shown.
    total : int or None
        Number of weights of the whole model, where it is known.
    """

    masks: ParamMasks
    total: int | None = None

    def __rich__(self) -> RenderableType:
        """Return the tree."""
        root = Tree(self._headline())
        for note in self.masks.notes:
            root.add(Text(note, style="italic yellow"))
        branches: dict[str, Tree] = {"": root}
        paths = _compact([name.rpartition(".")[0] for name in self.masks])
        for name, mask in self.masks.items():
            path, _, leaf = name.rpartition(".")
            _branch(branches, paths, path).add(_line(leaf, mask))
        return root

    def _headline(self) -> Text:
        count = self.masks.num_elements
        line = Text(self.masks.description or "masks", style="bold")
        line.append(f"  {count:,} weights", style="green")
        if self.total:
            line.append(f" of {self.total:,} ({count / self.total:.3%})", style="dim")
        return line

    def __str__(self) -> str:
        console = Console(width=120, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _repr_html_(self) -> str:
        console = Console(record=True, width=120, file=io.StringIO(), force_jupyter=False)
        console.print(self)
        style = "font-family:Menlo,Consolas,monospace;line-height:1.3"
        return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


def preview_weight_restriction(model: nn.Module, masks: Any = None, *, console: Console | None = None) -> Preview:
    """Show which weights a restriction moves, as a tree of modules with counts and bars.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    masks : str, list of str, mapping or None
        A restriction, or masks by parameter name, as ``param_masks`` of `devinterp.slt.sampling.sample` takes them.
    console : rich.console.Console, optional
        Where to print; standard output by default. In a notebook nothing is printed: the result is shown.

    Returns
    -------
    Preview
        What is shown.

    Raises
    ------
    InvalidInputError
        The masks are none of this model's.
    """
    preview = Preview(as_param_masks(model, masks), sum(p.numel() for p in model.parameters()))
    console = console or Console()
    if not console.is_jupyter:
        console.print(preview)
    return preview


def html(masks: ParamMasks) -> str:
    """Return masks as HTML, for notebooks."""
    return Preview(masks)._repr_html_()


def _compact(paths: list[str]) -> set[str]:
    """Return the module paths worth a line of their own: those of parameters, and where their ways part."""
    worth = set(paths)
    for a in paths:
        for b in paths:
            shared = []
            for x, y in zip(a.split("."), b.split("."), strict=False):
                if x != y:
                    break
                shared.append(x)
            worth.add(".".join(shared))
    return worth - {""}


def _branch(branches: dict[str, Tree], worth: set[str], path: str) -> Tree:
    if path not in branches:
        above = path.rpartition(".")[0]
        while above and above not in worth:
            above = above.rpartition(".")[0]
        label = path[len(above) + 1 :] if above else path
        branches[path] = _branch(branches, worth, above).add(Text(label, style="cyan"))
    return branches[path]


def _line(name: str, mask: Mask) -> Text:
    fraction = mask.num_elements / max(mask.numel(), 1)
    filled = max(round(BAR * fraction), 1)
    line = Text(f"{name:<8} ")
    line.append("█" * filled, style="green").append("░" * (BAR - filled), style="dim")
    line.append(f" {mask.num_elements:>12,}", style="green").append(f" of {'×'.join(map(str, mask.shape))}")
    return line.append(f"  {_which(mask)}", style="dim")


def _which(mask: Mask) -> str:
    """Say which rows and columns are selected."""
    if mask.is_whole:
        return "all"
    if mask.index is None:
        return "scattered elements"
    names = {1: ("elements",), 2: ("rows", "columns")}.get(
        len(mask.shape), [f"dim {d}" for d in range(len(mask.shape))]
    )
    return ", ".join(
        f"{name} {_ranges([int(i) for i in idx])}"
        for name, idx in zip(names, mask.index, strict=True)
        if idx is not None
    )


def _ranges(indices: list[int]) -> str:
    """Write sorted indices as ranges, shortened where there are many."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ",".join(texts if len(texts) <= 6 else [*texts[:3], "…", texts[-1]])
