"""What computes the losses and gradients of one or several chains that advance together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from devinterp.sampling.engines.weights import SampledWeights
from devinterp.sampling.spec import RunSpec

#: Key of the sampling dataset's rows among cached activations.
DATASET = "dataset"


def observable_key(observable: str) -> str:
    """Return the key of an observable's rows among cached activations."""
    return f"observables/{observable}"


class Engine(ABC):
    """Losses and gradients of one or several chains, under one or several restrictions.

    Where there are several restrictions, each has the same number of chains, and the dimension ``chain`` of what is returned
    holds all chains of the first, then all of the second, and so on.

    Parameters
    ----------
    spec : RunSpec
        The run.

    Attributes
    ----------
    weights : SampledWeights
        The sampled parameters of the chains.
    num_chains : int
        Chains of each restriction.
    note : str
        How much of the model is reused, or why nothing; empty where there is no question of it.
    compile_note : str
        Whether layers are compiled, or why not; empty where nobody asked for it.
    """

    weights: SampledWeights

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.num_chains = 1
        self.note = self.compile_note = ""

    @abstractmethod
    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Compute the gradient of the mean loss of one step's minibatches, to be fetched with ``weights.gradients()``.

        Parameters
        ----------
        sequence_ids : sequence of numpy.ndarray
            For each chain of a restriction the rows of the step, ``(batch,)``: its ``gradient_accumulation_steps`` minibatches
            after each other.

        Returns
        -------
        losses : Tensor
            ``(chain, batch, *loss_dims)``, NaN where masked.
        finite : Tensor
            Whether all unmasked losses are finite, boolean ``(chain,)``, on the device.
        """

    def prefetch(self, sequence_ids: Sequence[np.ndarray]) -> None:
        """Begin to copy the first minibatch of a coming step to the device, if rows are kept on the host.

        Parameters
        ----------
        sequence_ids : sequence of numpy.ndarray
            The rows of that step, as for `add_gradient`.
        """
        if self.spec.rows.host is not None:
            self._fetch_ahead(self._minibatches(sequence_ids)[0])

    def _fetch_ahead(self, minibatch: Sequence[np.ndarray]) -> None:
        """Begin to copy one of the `_minibatches` to the device, if rows are kept on the host."""
        if self.spec.rows.host is not None:
            self.spec.rows.prefetch(np.concatenate(minibatch))

    def _minibatches(self, sequence_ids: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Return the rows of each minibatch of a step: one array where all chains share them, else one for each chain."""
        num = self.spec.settings.batches_per_step
        shared = all(ids is sequence_ids[0] for ids in sequence_ids)
        of_chains = sequence_ids[:1] if shared else sequence_ids
        if num == 1:
            return [tuple(of_chains)]
        return list(zip(*(np.split(ids, num) for ids in of_chains), strict=True))

    @abstractmethod
    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable now, ``(chain, sequence, *loss_dims)``, and whether they are finite."""

    def evaluate_all(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what `evaluate` does for every observable, by name."""
        return {name: self.evaluate(name) for name in self.spec.observables}
