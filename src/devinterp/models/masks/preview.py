"""Drawing of masks as a tree of modules with counts and bars, in a terminal or a notebook."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from devinterp.models.masks.mask import Mask
    from devinterp.models.masks.param_masks import ParamMasks

BAR_WIDTH = 16


@dataclass(frozen=True)
class Preview:
    """Masks drawn as a tree; `rich` prints it, notebooks show it as HTML.

    Parameters
    ----------
    masks : ParamMasks
        The masks to draw.
    total : int or None
        Number of weights of the whole model; None where it is not known.
    """

    masks: ParamMasks
    total: int | None = None

    def __rich__(self) -> RenderableType:
        """Return the tree."""
        root = Tree(self._headline())
        for note in self.masks.notes:
            root.add(Text(note, style="italic yellow"))
        branches: dict[str, Tree] = {"": root}
        paths = _drawn_paths([name.rpartition(".")[0] for name in self.masks])
        for name, mask in self.masks.items():
            path, _, parameter = name.rpartition(".")
            _branch(branches, paths, path).add(_line(parameter, mask))
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


def _drawn_paths(paths: list[str]) -> set[str]:
    """Return the module paths that get a line: those that own parameters, and those below which they branch."""
    children: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split(".")
        for i in range(1, len(parts)):
            children.setdefault(".".join(parts[:i]), set()).add(parts[i])
    return {*paths, *(path for path, names in children.items() if len(names) > 1)} - {""}


def _branch(branches: dict[str, Tree], drawn: set[str], path: str) -> Tree:
    """Return the branch of a module, made below that of the nearest drawn module above it."""
    if path not in branches:
        above = path.rpartition(".")[0]
        while above and above not in drawn:
            above = above.rpartition(".")[0]
        label = path[len(above) + 1 :] if above else path
        branches[path] = _branch(branches, drawn, above).add(Text(label, style="cyan"))
    return branches[path]


def _line(name: str, mask: Mask) -> Text:
    fraction = mask.num_elements / max(mask.numel(), 1)
    filled = max(round(BAR_WIDTH * fraction), 1)
    line = Text(f"{name:<8} ")
    line.append("█" * filled, style="green").append("░" * (BAR_WIDTH - filled), style="dim")
    line.append(f" {mask.num_elements:>12,}", style="green").append(f" of {'×'.join(map(str, mask.shape))}")
    return line.append(f"  {_selection(mask)}", style="dim")


def _selection(mask: Mask) -> str:
    """Return which rows and columns are selected, in words."""
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
