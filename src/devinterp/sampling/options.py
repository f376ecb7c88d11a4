"""Where and how a run is carried out: nothing here changes what is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, final

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.checkpointing import SHARE, check_share
from devinterp.sampling.engines.vectorization import MODES

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


@final
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how a run is carried out; `devinterp.slt.sampling.sample` takes it as ``options=`` and documents each field.

    Raises
    ------
    InvalidInputError
        If a value is out of range; the message names it.
    """

    output_path: StoreLike | None = None
    storage_options: Mapping[str, Any] | None = None
    paired: bool | None = None
    virial: bool = True
    curvature_directions: int = 0
    null: bool = False
    chains: str = "auto"
    compile: bool | str = False
    progress: bool | None = None
    checkpoint_share: float = SHARE
    keep_state: bool = False
    notes: Mapping[str, Any] | None = field(default_factory=dict)
    workers: int | None = None
    client: Any = None
    repair: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_share(self.checkpoint_share)
        arguments.word("chains", self.chains, MODES)
        for name in ("virial", "null", "keep_state", "repair", "dry_run"):
            arguments.flag(name, getattr(self, name))
        arguments.count("curvature_directions", self.curvature_directions, least=0)
        if self.curvature_directions and not self.virial:
            raise InvalidInputError(
                f"`curvature_directions` (={self.curvature_directions}) are a part of what `virial` (=False) turns off."
            )
        for name in ("paired", "progress"):
            if getattr(self, name) is not None:
                arguments.flag(name, getattr(self, name))
        for name in ("storage_options", "notes"):
            arguments.mapping(name, getattr(self, name))
        if not isinstance(self.compile, str):
            arguments.flag("compile", self.compile)
        elif self.compile not in _known_backends():
            raise InvalidInputError(
                f"`compile` (={self.compile!r}) must be True, False or a backend of torch.compile: "
                f"{', '.join(map(repr, _known_backends()))}."
            )
        workers = self.workers
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
            raise InvalidInputError(f"`workers` (={workers!r}) must be a whole number of processes, at least 1.")
        if workers and self.client is not None:
            raise InvalidInputError("`workers` and `client` both say where to sample: pass only one.")

    @property
    def compile_backend(self) -> str:
        """Return the backend of ``torch.compile``; empty where nothing is compiled."""
        return self.compile if isinstance(self.compile, str) else "inductor" if self.compile else ""

    @classmethod
    def merged(cls, options: RunOptions | None, given: Mapping[str, Any]) -> RunOptions:
        """Return the options of a call that may give them as one object or as arguments of their own.

        Parameters
        ----------
        options : RunOptions or None
            As one object.
        given : mapping
            Every argument of the call, by its name.

        Raises
        ------
        InvalidInputError
            If an argument is given beside the object.
        """
        own, defaults = {each.name: given[each.name] for each in fields(cls)}, cls()
        if options is None:
            return cls(**own)
        if not isinstance(options, cls):
            raise InvalidInputError(f"`options` (={options!r}) must be a devinterp.RunOptions.")
        twice = [name for name, value in own.items() if (value or None) != (getattr(defaults, name) or None)]
        if twice:
            raise InvalidInputError(
                f"`options` and `{twice[0]}` both say how to run: write options=RunOptions({twice[0]}=...), or leave out "
                "`options`."
            )
        return options


def _known_backends() -> list[str]:
    import torch  # here, because what names the backends takes seconds to import

    backends: list[str] = torch.compiler.list_backends(exclude_tags=())
    return backends
