"""Stochastic-gradient MCMC as a torch optimizer, which moves the parameters of a model with one of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.optim.metrics import Metrics
from devinterp.optim.preconditioner import NHTPreconditioning, Preconditioner, RMSpropPreconditioner
from devinterp.optim.prior import CompositePrior, GaussianPrior, Prior, UniformPrior
from devinterp.optim.steps import GroupSteps, preconditioner_called


class SGMCMC(torch.optim.Optimizer):
    r"""Samples :math:`e^{-n\beta L(w)}` times a prior, one step for each call of `step`.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them, as any optimizer of torch takes them.
    lr : float, default: 0.01
        Step size :math:`\epsilon`; the drift is :math:`(\epsilon/2) \nabla U`.
    noise_level : float, default: 1.0
        Standard deviation of the noise, before it is scaled; 1 samples the density.
    nbeta : float or callable, default: 1.0
        :math:`n\beta`; a function of nothing is asked at every step.
    prior : Prior, "initial", iterable of Tensor, float or None, optional
        The prior, or the centre of a Gaussian one whose strength is `localization`.
    preconditioner : Preconditioner, "identity", "rmsprop" or None, default: "identity"
        How steps are scaled.
    preconditioner_kwargs : dict, optional
        Options of the preconditioner that was named.
    bounding_box_size : float, optional
        Clamp every weight to within this of its start.
    mask, optimize_over : Tensor, optional
        Which elements of the group's parameters are sampled.
    save_metrics : bool, default: False
        Whether `get_metrics` measures every step.
    sketch_dim, sketch_seed : int, optional
        Refused, if given: sketches of steps are not available.
    prior_kwargs : dict, optional
        Options of a Gaussian prior: ``localization``.
    localization, weight_decay : float, optional
        Strength of the pulls towards the initial weights and towards zero.
    metrics : list of str, optional
        DevInterp 1's names of what is measured; any of them sets `save_metrics`.

    Raises
    ------
    InvalidInputError
        If an option cannot be used.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        noise_level: float = 1.0,
        nbeta: float | Callable[[], float] = 1.0,
        prior: Prior | Literal["initial"] | Iterable[Tensor] | float | None = None,
        prior_kwargs: dict[str, Any] | None = None,
        localization: float | None = None,
        preconditioner: Preconditioner | str | None = "identity",
        preconditioner_kwargs: dict[str, Any] | None = None,
        bounding_box_size: float | None = None,
        optimize_over: Any = None,
        metrics: Sequence[str] | None = None,
        weight_decay: float = 0.0,
        *,
        mask: Any = None,
        save_metrics: bool = False,
        sketch_dim: int | None = None,
        sketch_seed: int = 0,
    ) -> None:
        if sketch_dim is not None:
            raise InvalidInputError("`sketch_dim`: sketches of steps are not available; leave it out.")
        strength = (prior_kwargs or {}).get("localization", localization)
        box = prior.box_size if isinstance(prior, UniformPrior) and bounding_box_size is None else bounding_box_size
        defaults = {
            "lr": lr,
            "noise_level": noise_level,
            "nbeta": nbeta,
            "prior": _prior(prior, strength, weight_decay),
            "preconditioner": preconditioner_called(preconditioner, preconditioner_kwargs or {}),
            "bounding_box_size": box,
            "mask": optimize_over if mask is None else mask,
        }
        self._steps: list[GroupSteps] = []
        super().__init__(params, defaults)
        self.save_metrics = save_metrics or bool(metrics)
        self.tracked_metrics = list(metrics or ())
        #: Noise that the last step added, one tensor for each parameter, if metrics are saved.
        self.noise: list[Tensor] = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; where they are now is their centre."""
        super().add_param_group(param_group)
        self._steps.append(GroupSteps(self.param_groups[-1], self.state))

    @torch.no_grad()
    def step(self, closure: Any = None, noise_generator: torch.Generator | None = None) -> Any:
        """Take a step with the gradients that the parameters hold.

        Parameters
        ----------
        closure : callable, optional
            Computes the gradients first, and returns the loss.
        noise_generator : torch.Generator, optional
            Draws the noise; default: torch's own generator.

        Returns
        -------
        object
            What `closure` returned.
        """
        if isinstance(closure, torch.Generator):
            closure, noise_generator = None, closure
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.noise = []
        for steps in self._steps:
            self.noise += steps.step(noise_generator, measure=self.save_metrics)
        return loss

    def get_params(self) -> Iterator[Tensor]:
        """Yield all parameters."""
        for group in self.param_groups:
            yield from group["params"]

    def iter_group_metrics(self) -> Iterator[Metrics]:
        """Yield the metrics of each group's last step."""
        for steps in self._steps:
            yield steps.metrics

    def get_metrics(self) -> Metrics:
        """Return the metrics of the last step."""
        return Metrics.aggregate(self.iter_group_metrics())

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the last step by DevInterp 1's names."""
        last = self.get_metrics()
        weights = [param.detach() for param in self.get_params()]
        return {
            "distance": last.distance,
            "weight_norm": torch.sqrt(sum((w**2).sum() for w in weights)),  # type: ignore[arg-type]
            "grad_norm": last.unscaled_grad,
            "noise_norm": last.noise,
            "localization_loss": last.localization,
            "noise": self.noise,
        }

    def reset_metrics(self) -> None:
        """Set the metrics of the last step to zero."""
        for steps in self._steps:
            steps.metrics = Metrics()

    def before_last_step(self, loss: float) -> tuple[list[Tensor], list[Tensor], float]:
        """Return the weights before the last step, and slope and value there of minus the logarithm of the sampled density.

        Parameters
        ----------
        loss : float
            The loss at these weights. Metrics must be saved.
        """
        weights = [weight for steps in self._steps for weight in steps.weights_before]
        slopes = [slope for steps in self._steps for slope in steps.slopes_before]
        n_beta = self.param_groups[0]["nbeta"]
        energy = float(n_beta() if callable(n_beta) else n_beta) * loss
        return weights, slopes, energy + sum(steps.prior_energy for steps in self._steps)

    def get_sketches(self) -> Any:
        """Refuse: sketches are not available."""
        raise InvalidInputError(
            "sketches of steps are not available; `get_metrics` gives norms and angles of their parts."
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.get_params()).device

    @classmethod
    def sgld(cls, params: Any, lr: float = 0.01, **options: Any) -> SGMCMC:
        """Return plain Langevin dynamics; options as in `SGMCMC`."""
        return SGMCMC(params, lr, **options)

    @classmethod
    def rmsprop_sgld(
        cls,
        params: Any,
        lr: float = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 0.1,
        add_grad_correction: bool = False,
        **options: Any,
    ) -> SGMCMC:
        """Return Langevin dynamics with RMSprop's preconditioner."""
        return SGMCMC(params, lr, preconditioner=RMSpropPreconditioner(alpha, eps, add_grad_correction), **options)

    @classmethod
    def sgnht(cls, params: Any, lr: float = 0.01, *, diffusion_factor: float = 0.01, **options: Any) -> SGMCMC:
        """Return a Nosé-Hoover thermostat, the kernel ``"sgnht"``."""
        return SGMCMC(params, lr, preconditioner=NHTPreconditioning(diffusion_factor), **options)

    @classmethod
    def get_method(cls, method: str) -> Callable[..., SGMCMC]:
        """Return one of the forms by its name."""
        forms = {"sgld": cls.sgld, "rmsprop_sgld": cls.rmsprop_sgld, "sgnht": cls.sgnht}
        if method not in forms:
            raise InvalidInputError(f"`method` (={method!r}) must be one of {list(forms)}.")
        return forms[method]


def _prior(prior: Any, localization: float | None, weight_decay: float) -> Prior:
    """Return the prior that the arguments describe."""
    parts: list[Prior] = []
    if isinstance(prior, Prior):
        parts.append(prior)
    elif prior is not None:
        parts.append(GaussianPrior(1.0 if localization is None else localization, prior))
    elif localization:
        parts.append(GaussianPrior(localization))
    if weight_decay:
        parts.append(GaussianPrior(weight_decay, None))
    return CompositePrior(parts)
