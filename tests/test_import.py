"""What importing the package and asking a tree costs: no torch, no transformers, little time."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import xarray as xr

import devinterp
from devinterp.testing import synthetic_tree

HEAVY = ("torch", "transformers", "datasets", "matplotlib")


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEVINTERP_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, devinterp; print([m for m in {(*HEAVY, 'zarr', 'dask', 'rich', 'cyclopts')!r} if m in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.skipif(version("torch").startswith("2.6"), reason="vmap of torch 2.6 loads it by itself")
def test_sampling_does_not_load_the_compiler() -> None:
    """It takes longer to import than a short run takes; work is counted for several chains, through a mode of torch."""
    code = """
import sys, torch, devinterp
model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))
tree = devinterp.sample(
    model, torch.randint(5, (8, 6)), num_chains=2, num_draws=2, batch_size=4, num_init_loss_batches=1,
    lr=1e-3, n_beta=2.0, localization=1.0, progress=False,
)
print("a step of" in tree.attrs["provenance"], "torch._dynamo" in sys.modules)
"""
    assert run(code) == "True False"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "run.zarr"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata|.*does not have a Zarr V3 spec")
        synthetic_tree(num_draws=5).to_zarr(path)
    return path


def test_asking_a_stored_tree_does_not_load_torch(store: Path) -> None:
    code = f"""
import sys, devinterp, xarray as xr
tree = xr.open_datatree(sys.argv[1], engine="zarr", chunks={{}})
loaded = {{}}
for question in ("__dir__()", "__repr__()", "plot", "llc()", "bif(method='token')"):
    eval("tree.slt." + question)
    loaded[question] = [m for m in {HEAVY!r} if m in sys.modules]
print(dict(filter(lambda each: each[1], loaded.items())))
"""
    assert run(code, str(store)) == "{}"


def test_plugins_are_loaded_on_first_use(store: Path) -> None:
    code = """
import sys, devinterp, xarray as xr
tree = xr.open_datatree(sys.argv[1], engine="zarr")
slt = tree.slt
hasattr(slt, "_repr_something_"), hasattr(devinterp, "__path__")
print("devinterp.analyses.llc" in sys.modules)
slt.llc
print("devinterp.analyses.llc" in sys.modules)
"""
    assert run(code, str(store)).split() == ["False", "True"]


def test_what_is_exported() -> None:
    assert set(devinterp.__all__) <= set(dir(devinterp))
    for name in (*devinterp.__all__, "open"):
        assert getattr(devinterp, name) is not None
    assert devinterp.__version__.count(".") == 2
    assert "open" not in devinterp.__all__  # a star import must not hide the built-in one
    with pytest.raises(AttributeError, match="module 'devinterp' has no attribute 'smaple'"):
        _ = devinterp.smaple  # type: ignore[attr-defined]


def test_submodules_are_not_hidden() -> None:
    out = run(
        "import devinterp, devinterp.slt.llc as llc, devinterp.store.reading.open as o; print(llc.__name__, o.__name__)"
    )
    assert out == "devinterp.slt.llc devinterp.store.reading.open"


def test_opening_through_the_package(store: Path) -> None:
    tree = devinterp.open(store)
    assert isinstance(tree, xr.DataTree)
    assert tree["trace/loss"].chunks is None  # a small store
    assert devinterp.open(store, eager_bytes=0)["trace/loss"].chunks
