r"""Sample a problem whose coefficient is known exactly, into a store on disk, and compare.

The loss is :math:`\frac12 \sum_i h_i w_i^2` around its minimum, so that the localized posterior is a Gaussian, and

.. math:: \lambda = \frac12 \sum_i \frac{n\beta\, h_i}{n\beta\, h_i + \gamma}

exactly. BAOAB has the right variance on a quadratic at every step size, so that nothing but the Monte Carlo error is left.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Second derivatives of the loss.
CURVATURES = (1.0, 0.7, 0.5, 0.35, 0.25)
N_BETA, LOCALIZATION = 100.0, 5.0
#: Standard errors that a right estimate may be off: a correct sampler fails one time in 16,000.
MOST_ERRORS = 4.0


@dataclass(frozen=True)
class SelfTest:
    """An estimate of a known coefficient.

    Parameters
    ----------
    exact, estimate, error : float
        The coefficient, its paired estimate, and the standard error of that.
    verdict : str
        What `diagnose` says of the run.
    device : str
        Where it was sampled.
    """

    exact: float
    estimate: float
    error: float
    verdict: str
    device: str

    @property
    def passed(self) -> bool:
        """Whether the estimate is within its error of the exact value, and the run is one whose numbers can be used."""
        return abs(self.estimate - self.exact) <= MOST_ERRORS * self.error and self.verdict in ("ok", "note")

    def __str__(self) -> str:
        """Return the comparison in a line."""
        return (
            f"coefficient {self.estimate:.3f} ± {self.error:.3f}, exactly {self.exact:.3f}: "
            f"{'right' if self.passed else 'WRONG'} (the run is judged {self.verdict}; sampled on {self.device})"
        )


def exact_coefficient() -> float:
    """Return the coefficient of the localized posterior."""
    return 0.5 * math.fsum(N_BETA * h / (N_BETA * h + LOCALIZATION) for h in CURVATURES)


def run_self_test(*, loss_factor: float = 1.0) -> SelfTest:
    """Sample the problem and compare; takes seconds.

    Parameters
    ----------
    loss_factor : float, default: 1.0
        What to multiply the loss by: with another number than 1 the test must fail.
    """
    import torch  # what only reads stores works without it

    from devinterp.slt.sampling import sample
    from devinterp.store.reading.open import open as open_store

    model, loss_fn = _problem(loss_factor)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="devinterp-doctor-") as folder:
        path = Path(folder) / "run.zarr"
        sample(
            model,
            (torch.zeros(16),),
            loss_fn=loss_fn,
            sampling_method="baoab",
            lr=5e-3,
            n_beta=N_BETA,
            localization=LOCALIZATION,
            batch_size=16,
            num_chains=4,
            num_burnin_steps=150,
            num_draws=300,
            num_steps_bw_draws=2,
            num_init_loss_batches=1,
            device=device,
            output_path=path,
            progress=False,
        )
        tree = open_store(path)
        llc, verdict = tree.slt.llc().compute(), tree.slt.diagnose().attrs["verdict"]
    return SelfTest(
        exact_coefficient(), float(llc["paired_llc_mean"]), float(llc["paired_llc_se"]), str(verdict), device
    )


def _problem(loss_factor: float) -> tuple[Any, Callable[[Any, Any], Any]]:
    import torch

    class Bowl(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.zeros(len(CURVATURES)))

    def loss_fn(model: Any, batch: Any) -> Any:
        curvatures = loss_factor * torch.tensor(CURVATURES, device=model.weights.device)
        return 0.5 * (curvatures * model.weights**2).sum() + 0 * batch[0]

    return Bowl(), loss_fn
