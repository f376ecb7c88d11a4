"""An import path of DevInterp 1; see `devinterp.slt.sampler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from devinterp.slt.sampler import sample

__all__ = ["sample", "sample_single_chain"]


def sample_single_chain(
    ref_model: nn.Module,
    loader: DataLoader[Any],
    evaluate: Callable[[nn.Module, Any], Any],
    optimizer_kwargs: Mapping[str, Any],
    num_draws: int = 100,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    grad_accum_steps: int = 1,
    sampling_method: Any = None,
    chain: int = 0,
    seed: int | None = None,
    verbose: bool = True,
    device: Any = "cpu",
    optimize_over_per_model_param: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    use_amp: bool = False,
    **kwargs: Any,
) -> None:
    """Run one chain, and call functions at its draws; arguments as `devinterp.slt.sampler.sample`'s.

    Parameters
    ----------
    chain : int, default: 0
        Its number, which callbacks get.
    """
    sample(
        ref_model,
        loader,
        callbacks,
        evaluate,
        optimizer_kwargs=optimizer_kwargs,
        num_draws=num_draws,
        num_chains=1,
        num_burnin_steps=num_burnin_steps,
        num_steps_bw_draws=num_steps_bw_draws,
        grad_accum_steps=grad_accum_steps,
        seed=seed,
        device=device,
        optimize_over_per_model_param=optimize_over_per_model_param,
        use_amp=use_amp,
        first_chain=chain,
        **({} if sampling_method is None else {"sampling_method": sampling_method}),
    )
