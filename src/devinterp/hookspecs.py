"""The hooks a plugin may implement, one for each kind of thing. They take nothing and return lists of objects.

Every installed plugin is imported when ``tree.slt`` is first used, on machines that only analyse too. So a module named
by an entry point, and what it imports at its top level, must not import torch, transformers or anything as slow:
kernels, recorders and model adapters do that inside their functions, and import classes for annotations ``if TYPE_CHECKING``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from devinterp.types import Analysis, Check, Command, Kernel, ModelAdapter, Plot, Recorder

PROJECT = "devinterp"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def devinterp_analyses() -> Sequence[Analysis | Check]:  # type: ignore[empty-body]
    """Return analyses: functions of a tree, offered as ``tree.slt.<name>()``; and checks, parts of ``tree.slt.diagnose()``."""


@hookspec
def devinterp_model_adapters() -> Sequence[ModelAdapter]:  # type: ignore[empty-body]
    """Return model adapters: how to run a family of models and where its components are."""


@hookspec
def devinterp_kernels() -> Sequence[Kernel]:  # type: ignore[empty-body]
    """Return sampling kernels, chosen by ``sampling_method=``."""


@hookspec
def devinterp_recorders() -> Sequence[Recorder]:  # type: ignore[empty-body]
    """Return recorders: what is stored of the model at every draw, chosen by ``recorders=``."""


@hookspec
def devinterp_plots() -> Sequence[Plot]:  # type: ignore[empty-body]
    """Return plots: pictures of a tree, offered as ``tree.slt.plot.<name>()``."""


@hookspec
def devinterp_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Return commands of the command line, offered as ``devinterp <name>``."""
