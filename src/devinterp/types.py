"""The objects that plugins return and that parts of the package hand to each other.

Nothing here imports torch: analyses, stores and plots are used on machines without it.
"""

from __future__ import annotations

import itertools
import keyword
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from devinterp.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure.types import Structure

#: A chain of a run: its restriction and itself, each by its number.
ChainKey: TypeAlias = tuple[int, int]


def _check_name(kind: str, name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise InvalidInputError(
            f"{kind} name {name!r} must be a public Python identifier, because users write it in code: for example 'wbic'."
        )


@dataclass(frozen=True, slots=True)
class Analysis:
    """A function of a tree, offered as ``tree.slt.<name>()`` and as ``devinterp <name> STORE``.

    Parameters
    ----------
    name : str
        Name of the method; a public Python identifier.
    compute : callable
        ``compute(tree, **options)`` returning an `xarray.Dataset`, `xarray.DataArray` or `xarray.DataTree`, or anything
        where it is no command. Its signature and docstring become those of the method and of the command.
    requires : tuple of str, optional
        Paths of the variables it reads, checked when the method is called. ``*`` stands for any one group, for example
        ``"observables/*/loss"``.
    of_study : bool, default: False
        Whether `compute` takes a tree of several runs as it is, to compare them. Otherwise it is given one run at a time, and
        the results are joined.
    has_command : bool, default: True
        Whether it is a command too. False for what a terminal cannot show, such as a widget; a command of the same name may
        then do what can be done there.
    """

    name: str
    compute: Callable[..., Any]
    requires: tuple[str, ...] = ()
    of_study: bool = False
    has_command: bool = True

    def __post_init__(self) -> None:
        _check_name("analysis", self.name)


#: What a finding means for the numbers of a run, from nothing to that they must not be used.
SEVERITIES = ("ok", "note", "warning", "reject")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found about a run.

    Parameters
    ----------
    code : str
        What it is: a stable word, such as ``"drift"``, that scripts may rely on.
    severity : {"note", "warning", "reject"}
        Good to know; numbers may be off; numbers must not be used.
    message : str
        What was found, in a sentence.
    advice : str, optional
        What to do about it.
    value, limit : float, optional
        The figure that was judged, and the limit that it is beyond.
    restriction, observable : str, optional
        Names of those it is about; empty for the run.
    chain : int, optional
        Label of the chain; -1 for all.
    """

    code: str
    severity: str
    message: str
    advice: str = ""
    value: float = math.nan
    limit: float = math.nan
    restriction: str = ""
    observable: str = ""
    chain: int = -1

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES[1:]:
            raise InvalidInputError(
                f"the severity (={self.severity!r}) of the finding {self.code!r} must be one of {SEVERITIES[1:]}."
            )


@dataclass(frozen=True, slots=True)
class Check:
    """A part of ``tree.slt.diagnose()``: judges one aspect of a run.

    Parameters
    ----------
    name : str
        Its name; a public Python identifier.
    compute : callable
        ``compute(evidence)`` returning the findings, given a `devinterp.analyses.diagnosis.Evidence`: the run, and series and
        results that checks share. What it raises as a `MissingDataError` is reported as not looked at, with the message.
    codes : dict of str to str
        The codes of its findings, and what each means in a few words.
    requires : tuple of str, optional
        Paths of the variables it reads, as in `Analysis`; where one is missing the check is reported as not looked at.
    """

    name: str
    compute: Callable[[Any], Iterable[Finding]]
    codes: Mapping[str, str]
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("check", self.name)


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of a tree, offered as ``tree.slt.plot.<name>()``.

    Parameters
    ----------
    name : str
        Name of the method; a public Python identifier.
    draw : callable
        ``draw(tree, **options)`` returning the figure or axes it drew on.
    requires : tuple of str, optional
        Paths of the variables it reads, as in `Analysis`.
    of_study : bool, default: False
        Whether `draw` takes a tree of several runs, too; otherwise the tree must hold a single one.
    """

    name: str
    draw: Callable[..., Any]
    requires: tuple[str, ...] = ()
    of_study: bool = False

    def __post_init__(self) -> None:
        _check_name("plot", self.name)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the command line, offered as ``devinterp <name>``.

    Parameters
    ----------
    name : str
        Name of the command; a public Python identifier, whose underscores are hyphens on the command line.
    function : str
        Import path of the function that does the work, ``"package.module:function"``. It is imported when the command is
        used, so that ``devinterp --help`` stays fast; its parameters and docstring become the command's options and help.
    summary : str
        What the command does, in one line of ``devinterp --help``.
    """

    name: str
    function: str
    summary: str

    def __post_init__(self) -> None:
        _check_name("command", self.name)
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.function):
            raise InvalidInputError(
                f"`function` (={self.function!r}) of the command {self.name!r} must be an import path such as "
                "'package.module:function'."
            )


@dataclass(frozen=True, slots=True)
class Target:
    r"""The local tempered posterior that every kernel samples, :math:`p(w) \propto e^{-U(w)}`.

    .. math:: U(w) = n\beta\, L(w) + \tfrac{\gamma}{2} |w - w_0|^2 + \tfrac{\lambda}{2} |w|^2

    Parameters
    ----------
    n_beta : float
        :math:`n\beta`, the inverse temperature times the sample size; at least 0. Zero samples the prior (a null control).
    localization : float, default: 0.0
        :math:`\gamma`, the strength of the pull towards the starting weights :math:`w_0`; at least 0.
    weight_decay : float, default: 0.0
        :math:`\lambda`, the strength of the pull towards zero; at least 0.
    """

    n_beta: float
    localization: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one step of a kernel reads and moves.

    All lists are aligned: one tensor of shape ``(chain, *shape)`` for each sampled parameter. The chain dimension is always
    there and kernels never mix chains, so that the same code runs one chain or many at once.

    Parameters
    ----------
    values : list of Tensor
        The weights before the step; `Transition.update` moves them in place.
    gradients : list of Tensor
        Of the minibatch loss at `values`, not multiplied by ``n_beta``; `Transition.update` may overwrite them.
    initial_weights : list of Tensor
        The weights :math:`w_0` around which is sampled; their chain dimension may have length 1.
    state : dict of str to list of Tensor
        What the kernel remembers (`Transition.init`); `Transition.update` moves it in place.
    noise : iterable of Tensor
        Iterating it once draws fresh normal noise for one parameter after another, so that no more than one parameter's
        noise need be in memory; a tensor it gives may be overwritten. For `Transition.terms` it is a list.
    """

    values: list[Tensor]
    gradients: list[Tensor]
    initial_weights: list[Tensor]
    state: dict[str, list[Tensor]]
    noise: Iterable[Tensor]


@runtime_checkable
class Transition(Protocol):
    """One algorithm with its settings: what `Kernel.build` returns."""

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the state at the start of a chain: named lists of tensors, empty for a memoryless kernel.

        The first dimension of every tensor is the chain. The state is all that a kernel remembers: chains are resumed from it.
        """
        ...

    def update(self, step: StepInputs) -> None:
        """Move the values and the state of `step` one step, in place."""
        ...

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the parts whose sum is the step that `update` would take, for the metrics; nothing is changed.

        The names ``gradient``, ``localization``, ``weight_decay`` and ``noise`` are recorded under v2's metric names.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """A stochastic-gradient MCMC algorithm, chosen by ``sampling_method=``.

    Parameters
    ----------
    name : str
        Its name, lower case.
    build : callable
        ``build(target, *, lr, **options)`` returning a `Transition`. Keyword parameters beyond ``lr`` are what
        ``sampling_method_kwargs`` may hold; their defaults and the docstring are the user's documentation.
    aliases : tuple of str, optional
        Other names it answers to.
    """

    name: str
    build: Callable[..., Transition]
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            _check_name("kernel", name)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The model at one draw of one chain, or at the initial weights, as a recorder sees it.

    Parameters
    ----------
    model : torch.nn.Module
        The model, at the weights of the draw, on the device and in the mode in which it is sampled. Its weights must be left
        as they are. Sampled parameters require gradients, for recorders that switch them on with `torch.enable_grad`.
    displacement : callable
        ``displacement()`` yields, for each sampled parameter, its name and :math:`w - w_0` as a tensor of the parameter's
        shape: zero where a weight is not sampled, and everywhere at the initial weights. In the precision of the chain
        (float32, float64 for float64 parameters), which is finer than that of a model in half precision.
    """

    model: nn.Module
    displacement: Callable[[], Iterator[tuple[str, Tensor]]]


@runtime_checkable
class RecordedData(Protocol):
    """Rows of a data set as a run reads them, for recorders that evaluate the model on fixed data."""

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        ...

    def token_ids(self) -> Tensor:
        """Return the token ids, ``(sequence, token)``; raises `InvalidInputError` for data that hold none."""
        ...

    def attention_mask(self) -> Tensor | None:
        """Return True where there is text, ``(sequence, token)``; None where nothing is padded."""
        ...

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield the run's losses of all rows, ``(batch, *loss_dims)`` for each batch.

        NaN where masked, and nowhere else: a loss that is not a number is infinite.
        """
        ...

    def logits(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield the next-token logits of all rows, ``(batch, token, vocabulary)`` for each batch."""
        ...


@runtime_checkable
class RecordedRun(Protocol):
    """What a recorder knows of a run before its first step."""

    @property
    def model(self) -> nn.Module:
        """Return the model, at the initial weights."""
        ...

    @property
    def parameter_names(self) -> Sequence[str]:
        """Return the names of all parameters that some weight restriction samples."""
        ...

    def data(self, dataset: Any = None, *, num_rows: int | None = None) -> RecordedData:
        """Return the rows of a data set, anything that ``sample`` takes as ``dataset``.

        Parameters
        ----------
        dataset : object, optional
            The data set; None: the one that the run samples on.
        num_rows : int, optional
            How many of its first rows; None: all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorder made ready for one run: what `Recorder.build` returns.

    Parameters
    ----------
    record : callable
        ``record(snapshot)`` returns tensors by name, for a `Snapshot`: the same names, shapes and dtypes every time, floating
        or whole numbers. It is called without gradients, and must give the same for the same weights. NaN says that there is
        no value, and may only stand where it stands at the initial weights.
    dims : mapping of str to tuple of str
        Names of the dims of each of these tensors.
    coords : mapping of str to (tuple of str, array), optional
        Labels along these dims, and other arrays that do not change, each with its dims.
    attrs : mapping of str to mapping, optional
        Attributes of variables, such as ``{"norm": {"units": "nats"}}``.
    """

    record: Callable[[Snapshot], Mapping[str, Tensor]]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, tuple[tuple[str, ...], Any]] = field(default_factory=dict)
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Something to store of the model at every draw, chosen by ``sample(..., recorders=)``.

    Parameters
    ----------
    name : str
        Its name, and that of its group ``/recordings/<name>`` unless the user gives another; a public Python identifier.
    build : callable
        ``build(run, **settings)`` returning a `Recording`, given a `RecordedRun`. Keyword parameters are the settings that
        users may choose; their defaults and the docstring are the documentation.
    """

    name: str
    build: Callable[..., Recording]

    def __post_init__(self) -> None:
        _check_name("recorder", self.name)


class ModelAdapter(ABC):
    """Runs one family of models and describes their structure.

    An adapter with ``fallback = True`` is used only if no other matches.
    """

    name: ClassVar[str]
    fallback: ClassVar[bool] = False

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Say whether this adapter is for `model`; must not raise, nor import anything heavy."""

    @abstractmethod
    def logits(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return next-token logits of shape ``(batch, token, vocabulary)`` for `input_ids` of shape ``(batch, token)``.

        Where padding stands before text, `position_ids` count the tokens of text only; models that cannot be told ignore them.
        An adapter may leave this parameter out, and then never gets any.
        """

    def vocab_size(self, model: nn.Module) -> int | None:
        """Return the number of token ids that the model accepts, or None if that is unknown."""
        return None

    def structure(self, model: nn.Module) -> Structure:
        """Return the masks of the embeddings, layers, heads, MLPs and norms of `model`."""
        raise InvalidInputError(
            f"adapter {self.name!r} does not describe the structure of {type(model).__name__}: pass `param_masks` (a dict of "
            "parameter names to boolean masks), or write an adapter with a `structure` method."
        )


@dataclass(frozen=True, slots=True)
class Draw:
    """What a chain hands to the store: a run of consecutive steps, and the losses at the draw that ends them, if one does.

    Parameters
    ----------
    restriction, chain : int
        Which chain of the run this belongs to.
    first_step : int
        Index of the first of the steps.
    loss : numpy.ndarray
        Minibatch losses before each step's update, float32 of shape ``(step, batch, position)``, nats per token.
    metrics : dict of str to numpy.ndarray
        Per-step metrics, float32 of shape ``(step,)``.
    index : int or None
        Index of the draw, or None when no draw ends these steps.
    observables : dict of str to numpy.ndarray
        Per-token losses at the draw, float32 of shape ``(sequence, position)``, by observable.
    error : str or None
        Why the chain ended here, when it diverged; None for a healthy chain.
    loss_name : str
        Variable that holds `loss` and `observables`: ``"loss"``, or ``"mean_loss"`` where they are means over sequences.
    summaries : dict of str to numpy.ndarray
        Arrays of the whole chain, by the path of their variable; with its last draw.
    draw_metrics : dict of str to numpy.ndarray
        Metrics of the draws that are due at these steps, float32 ``(draw, ...)``: one draw, or several where no observable is
        evaluated at draws.
    first_draw : int
        Index of the first of these draws.
    recordings : dict of str to numpy.ndarray
        What recorders gave at the draw, by ``<recorder>/<variable>``.
    """

    restriction: int
    chain: int
    first_step: int
    loss: np.ndarray
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: int | None = None
    observables: Mapping[str, np.ndarray] = field(default_factory=dict)
    error: str | None = None
    loss_name: str = "loss"
    summaries: Mapping[str, np.ndarray] = field(default_factory=dict)
    draw_metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    first_draw: int = 0
    recordings: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Return the number of steps in this record."""
        return len(self.loss)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of chains that advance together: all that their next step depends on.

    Parameters
    ----------
    restrictions : tuple of int
        Numbers of the restrictions they are under; of each all of `chains` advance together.
    chains : tuple of int
        Which chains of each.
    step : int
        How many steps they have taken.
    arrays : dict of str to list of numpy.ndarray
        Sampled weights, state of the kernel, states of the random generators; by name.
    """

    restrictions: tuple[int, ...]
    chains: tuple[int, ...]
    step: int
    arrays: Mapping[str, Sequence[np.ndarray]]

    @property
    def keys(self) -> tuple[ChainKey, ...]:
        """Return the restriction and number of each chain."""
        return tuple(itertools.product(self.restrictions, self.chains))
