"""Losses at w0, in the pass through the model that also gives what chains reuse of its constant layers."""

from __future__ import annotations

from functools import partial
from typing import final

import numpy as np
from torch import Tensor

from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.engine import DATASET, observable_key
from devinterp.sampling.engines.prefix_cache import PrefixCache, SharedPrefix, after_prefix
from devinterp.sampling.engines.prefix_check import decide_reuse
from devinterp.sampling.spec import RunSpec


@final
class LossesAtW0:
    """Losses of a run's data while its model is at w0.

    Parameters
    ----------
    spec : RunSpec
        The run.
    shared : SharedPrefix, optional
        What restrictions share. Activations of the layers that are constant under the first restriction are kept in it for the
        chains that run next. Default: nothing is kept.
    """

    def __init__(self, spec: RunSpec, shared: SharedPrefix | None = None) -> None:
        self.spec = spec
        self._prefix: PrefixCache | None = None
        # Chains with minibatches of their own keep activations apart, for each its own.
        if shared is not None and spec.settings.match_sampling_input_ids_across_chains:
            reuse = decide_reuse(spec, next(iter(spec.restrictions.values())), shared)
            self._prefix = None if reuse.prefix is None else shared.of(reuse.prefix)

    def of_dataset(self, ids: np.ndarray) -> tuple[Tensor, bool]:
        """Return losses of rows of the sampling dataset; see `RunSpec.evaluate`.

        Parameters
        ----------
        ids : numpy.ndarray
            Rows, ``(row,)``: minibatches of the run behind each other, where these shall serve its chains.
        """
        return self._evaluate(DATASET, self.spec.rows, ids)

    def of_observable(self, name: str) -> tuple[Tensor, bool]:
        """Return the losses of an observable; see `RunSpec.evaluate`."""
        observable = self.spec.observables[name]
        return self._evaluate(observable_key(name), observable.rows, observable.sequence_id)

    def _evaluate(self, key: str, rows: Rows, ids: np.ndarray) -> tuple[Tensor, bool]:
        return self.spec.evaluate(rows, ids, partial(after_prefix, self._prefix, key, rows))
