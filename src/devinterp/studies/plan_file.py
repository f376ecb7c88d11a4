"""A study as a file: TOML with the arguments of `devinterp.study`, models and data by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from devinterp import sources
from devinterp.errors import InvalidInputError
from devinterp.models.restrictions import restrictions
from devinterp.studies import patterns

#: Key of the notes of a run that a plan began: the plan's path and text.
PLAN = "devinterp study"

_TABLES = ("over", "rows", "sample", "data", "observables")
_VALUES = ("models", "architecture", "dataset", "output_path", "same_noise", "tokenizer")
_DATA = {"length": 128, "num_sequences": 1024, "column": "text", "split": "train"}


def read_plan(path: Path) -> dict[str, Any]:
    """Return the arguments of `devinterp.study` that a plan holds.

    Parameters
    ----------
    path : pathlib.Path
        A TOML file, as docs/studies.md describes it. Paths in it are relative to its directory.

    Raises
    ------
    InvalidInputError
        If it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read the plan {str(path)!r}: {error}.") from error
    return parse_plan(text, path)


def parse_plan(text: str, path: Path) -> dict[str, Any]:
    """Return the arguments of `devinterp.study` that the text of a plan holds; see `read_plan`.

    Parameters
    ----------
    text : str
        TOML.
    path : pathlib.Path
        Where the plan is or was.

    Raises
    ------
    InvalidInputError
        If it holds something else.
    """
    try:
        plan = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"cannot read the plan {str(path)!r}: {error}.") from error
    unknown = [key for key in plan if key not in (*_TABLES, *_VALUES)]
    if unknown or "models" not in plan:
        what = f"has no entry {unknown[0]!r}" if unknown else "needs `models`"
        raise InvalidInputError(f"a plan {what}: it has {', '.join((*_VALUES, *_TABLES))} ({path}).")
    if "over" in plan and "rows" in plan:
        raise InvalidInputError(f"`over` and `rows` both say what varies: write only one ({path}).")
    folder = path.absolute().parent
    settings = dict(plan.get("sample", {}))
    for name in ("param_masks", "weight_restrictions"):
        if name in settings:
            settings[name] = _restrictions(settings[name])
    data = _Data(plan, folder)
    over = {name: _values(name, values, data) for name, values in plan.get("over", {}).items()}
    return {
        **settings,
        "models": _models(plan["models"], folder),
        "architecture": _function(plan["architecture"], folder) if "architecture" in plan else None,
        "dataset": data.read(plan["dataset"]) if "dataset" in plan else None,
        "observables": {name: data.read(source) for name, source in plan.get("observables", {}).items()} or None,
        "over": over or plan.get("rows"),
        "same_noise": plan.get("same_noise", True),
        "output_path": folder / plan["output_path"] if "output_path" in plan else None,
        "notes": {PLAN: {"path": str(path.absolute()), "plan": text}},
    }


def _models(value: Any, folder: Path) -> Any:
    """Return models as `devinterp.study` takes them: names as they are, files where they lie, functions loaded."""
    if isinstance(value, Mapping):
        return {label: _models(each, folder) for label, each in value.items()}
    if not isinstance(value, str):
        raise InvalidInputError(
            f"`models` (={value!r}) must be a name, a file, `file.py:function`, or a table of these."
        )
    if _is_function(value):
        return _function(value, folder)
    first = value.partition("{")[0].partition("*")[0].partition("@")[0]
    parent = (folder / first).parent if not first.endswith("/") else folder / first
    is_local = (folder / first).exists() or ("/" in value and parent.is_dir() and parent != folder)
    return str(folder / value) if is_local or Path(value).suffix in (".pt", ".pth", ".safetensors") else value


def _is_function(value: str) -> bool:
    name, colon, attribute = value.rpartition(":")
    return bool(colon) and attribute.isidentifier() and (name.endswith(".py") or name.replace(".", "").isidentifier())


def _function(value: Any, folder: Path) -> Callable[..., Any]:
    """Return the function that ``file.py:name`` or ``module:name`` names."""
    if not isinstance(value, str) or not _is_function(value):
        raise InvalidInputError(f"{value!r} must name a function, as `file.py:function` or `package.module:function`.")
    name, _, attribute = value.rpartition(":")
    try:
        module = _module(folder / name) if name.endswith(".py") else importlib.import_module(name)
        function = getattr(module, attribute)
    except (OSError, ImportError, AttributeError, SyntaxError) as error:
        raise InvalidInputError(f"cannot load {value!r}: {error}.") from error
    if not callable(function):
        raise InvalidInputError(f"{value!r} is no function, but a {type(function).__name__}.")
    loaded: Callable[..., Any] = function
    return loaded


#: Modules that plans have loaded: by file, the state it was in, and the module.
_LOADED: dict[Path, tuple[tuple[int, int], ModuleType]] = {}


def _module(path: Path) -> ModuleType:
    """Return the module in a file, loaded again where the file has changed."""
    state = path.stat().st_mtime_ns, path.stat().st_size
    if path in _LOADED and _LOADED[path][0] == state:
        return _LOADED[path][1]
    name = f"devinterp_plan_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)  # other processes cannot import it by its name
    _LOADED[path] = state, module
    return module


def _restrictions(value: Any) -> Any:
    """Return restrictions: names, or the function that finds each part of some kinds in a model (``{each = ["head"]}``)."""
    if isinstance(value, Mapping) and set(value) == {"each"}:
        return partial(restrictions, kind=value["each"])
    return value


def _values(name: str, values: Any, data: _Data) -> Any:
    if isinstance(values, str):
        return [float(item) if "." in item or "e" in item else int(item) for item in patterns.numbers(values)]
    if name == "dataset" and isinstance(values, Mapping):
        return {label: data.read(source) for label, source in values.items()}
    if name == "restrictions" and isinstance(values, Mapping):
        return {label: _restrictions(value) for label, value in values.items()}
    return values


class _Data:
    """Reads the data of a plan by name, each once."""

    def __init__(self, plan: Mapping[str, Any], folder: Path) -> None:
        self._options = {**_DATA, **plan.get("data", {})}
        unknown = set(self._options) - set(_DATA)
        if unknown:
            raise InvalidInputError(f"`data` has no entry {min(unknown)!r}; it has {', '.join(_DATA)}.")
        self._plan, self._folder = plan, folder
        self._read: dict[str, Any] = {}
        self._tokenizer: Any = None

    def read(self, source: Any) -> Any:
        """Return the sequences of a source; the same object each time."""
        if not isinstance(source, str):
            raise InvalidInputError(
                f"data (={source!r}) must be the name of a source, an .npy file, or `file.py:function`."
            )
        if source not in self._read:
            self._read[source] = self._load(source)
        return self._read[source]

    def _load(self, source: str) -> Any:
        options = self._options
        if _is_function(source):
            return _function(source, self._folder)()
        path = self._folder / source
        if path.suffix == ".npy":
            return sources.load_token_ids(str(path), limit=options["num_sequences"])
        if self._tokenizer is None:
            self._tokenizer = sources.load_tokenizer(self._name_of_tokenizer())
        return sources.load_sequences(
            str(path) if path.exists() else source,
            self._tokenizer,
            length=options["length"],
            limit=options["num_sequences"],
            column=options["column"],
            split=options["split"],
        )

    def _name_of_tokenizer(self) -> str:
        name = self._plan.get("tokenizer", self._plan["models"])
        if not isinstance(name, str) or _is_function(name) or ("{" in name.partition("@")[0]):
            raise InvalidInputError(
                "a plan with texts needs `tokenizer`, the name of a model whose tokenizer reads them."
            )
        return name.partition("@")[0]
