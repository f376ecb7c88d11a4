"""Distributions made for a test: found by importlib.metadata and imported like any installed one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devinterp import plugins

Install = Callable[[str, str, dict[str, str]], Path]


def clean_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Find the plugins anew for a test, and leave none of its own behind."""
    for name in ("DEVINTERP_LOAD_PLUGINS", "DEVINTERP_STRICT_PLUGINS", "DEVINTERP_PLUGINS_DIR"):
        monkeypatch.delenv(name, raising=False)
    plugins.reset()
    yield
    plugins.reset()


def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that puts a distribution on the path, laid out as pip would.

    ``install("my-plugin", "1.0", {"my_plugin": source})`` gives every module an entry point of its name.
    """
    imported: set[str] = set()

    def install(name: str, version: str, sources: dict[str, str]) -> Path:
        """Write modules and metadata into a directory, and put that on the path."""
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{module} = {module}" for module in sources]
        (info / "entry_points.txt").write_text("\n".join(["[devinterp]", *lines, ""]))
        for module, source in sources.items():
            (site / f"{module}.py").write_text(source)
        imported.update(sources)
        monkeypatch.syspath_prepend(site)
        plugins.reset()
        return site

    yield install
    for module in imported:
        sys.modules.pop(module, None)


def plugin(objects: str = "", *, hook: str = "devinterp_analyses", before: str = "") -> str:
    """Return the source of a plugin whose hook returns a list of `objects`; ``mean_loss`` is there to be used."""
    return f'''
import xarray as xr
from devinterp import Analysis, Command, Kernel, ModelAdapter, Plot, Recorder, hookimpl
{before}

def mean_loss(tree: xr.DataTree, scale: float = 1.0, *, over: str = "chain") -> xr.Dataset:
    """Mean of the losses of the trace.

    Parameters
    ----------
    tree : xarray.DataTree
        A run.
    scale : float, default: 1.0
        What to multiply it by.
    over : str, default: "chain"
        Dimension beside steps, batches and positions to average over.

    Returns
    -------
    xarray.Dataset
        ``mean``.
    """
    return xr.Dataset({{"mean": scale * tree["trace/loss"].mean([over, "step", "batch", "position"])}})


@hookimpl
def {hook}():
    return [{objects}]
'''


def analysis(name: str) -> str:
    """Return the source of a plugin with one analysis of that name."""
    return plugin(f'Analysis(name="{name}", compute=mean_loss, requires=("trace/loss",))')


def adapter(name: str, *, matches: str = "True", fallback: bool = False) -> str:
    """Return the source of a plugin with one model adapter."""
    before = f"""
class Adapter(ModelAdapter):
    name = {name!r}
    fallback = {fallback}
    def matches(self, model):
        return {matches}
    def logits(self, model, input_ids, attention_mask=None):
        return model(input_ids)
"""
    return plugin("Adapter()", hook="devinterp_model_adapters", before=before)
