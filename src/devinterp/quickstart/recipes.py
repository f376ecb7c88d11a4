"""What the quickstart samples, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

#: Chains of one seed have the seeds of as many noise streams from here on; two seeds of the quickstart share none.
_SEEDS_APART = 1000


@dataclass(frozen=True)
class Recipe:
    """Components to sample, settings that give a healthy trace of them, and the amount of data.

    Parameters
    ----------
    components : tuple of str
        Weight restrictions (docs/weight-restrictions.md), each sampled by itself; none for every weight at once.
    length : int
        Tokens of a sequence.
    num_sequences : int
        Sequences of each text, at most.
    num_observed : int, optional
        Sequences of each observed text, spread over those, whose losses are taken at every draw. None: other ones at each, as
        many as the arguments of `sample` say.
    sampling : dict
        Arguments of `devinterp.slt.sampling.sample`.
    """

    components: tuple[str, ...]
    length: int
    num_sequences: int
    num_observed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, *, components: tuple[str, ...], length: int | None, seed: int, **sampling: Any) -> Recipe:
        """Return the recipe with another seed, and other components, length and arguments where these are given."""
        changes = {name: value for name, value in sampling.items() if value is not None}
        changes["init_seed"] = 100 + _SEEDS_APART * seed
        return replace(
            self,
            components=components or self.components,
            length=self.length if length is None else length,
            sampling={**self.sampling, **changes},
        )

    def observed(self, texts: Dataset) -> Any:
        """Return a text as `sample` takes an observable: a fixed part of it, all at each draw, or all of it in turn."""
        if self.num_observed is None:
            return texts
        batch_size = self.sampling["batch_size"]
        num_batches = min(self.num_observed, len(texts)) // batch_size
        if not num_batches:
            return texts, 1
        number = num_batches * batch_size
        return texts.select([place * len(texts) // number for place in range(number)]), num_batches

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `sample`, with what is sampled."""
        return {**self.sampling, "weight_restrictions": list(self.components)} if self.components else {**self.sampling}


#: The MLPs of the last two layers of SmolLM2-135M: the layers before them are computed once for each of the few sequences, and
#: draws two steps apart are all but independent. What counts is n_beta / localization; with both small the noise of minibatches
#: and the slope of the loss at w0 count less, and steps may be larger. Attention of the last layer would decide too little of
#: the loss to be measured in minutes, and all weights of it together have no such step. Steps after burn-in, and L(w0),
#: take every sequence equally often.
COMPONENTS = Recipe(
    components=("l29 mlp", "l28 mlp"),
    length=24,
    num_sequences=64,
    num_observed=4,
    sampling={
        "sampling_method": "baoab",
        "sampling_method_kwargs": {"friction": 0.5},
        "lr": 4e-3,
        "n_beta": 7.5,
        "localization": 225.0,
        "num_chains": 2,
        "num_burnin_steps": 16,
        "num_draws": 112,
        "num_steps_bw_draws": 2,
        "batch_size": 2,
        "num_init_loss_batches": 32,
        "match_sampling_input_ids_across_chains": False,
    },
)

#: Every weight: from a grid of settings, one whose trace rises at once and levels off before the first draw. Few draws, because
#: each step costs some fifty times as much.
WHOLE = Recipe(
    components=(),
    length=128,
    num_sequences=512,
    sampling={
        "sampling_method": "rmsprop_sgld",
        "lr": 1e-5,
        "n_beta": 30.0,
        "localization": 6e3,
        "num_chains": 3,
        "num_burnin_steps": 7,
        "num_draws": 7,
        "batch_size": 4,
        "batches_per_draw": 1,
        "num_init_loss_batches": 8,
    },
)

#: Parts of a model that is trained on the spot, on both texts: trained on one alone, its loss on the other would fall.
TINY = Recipe(
    components=("l1 mlp", "l1 attn"),
    length=32,
    num_sequences=512,
    num_observed=8,
    sampling={
        "sampling_method": "baoab",
        "lr": 2e-3,
        "n_beta": 30.0,
        "localization": 300.0,
        "num_chains": 2,
        "num_burnin_steps": 50,
        "num_draws": 120,
        "num_steps_bw_draws": 2,
        "batch_size": 8,
        "num_init_loss_batches": 64,
        "match_sampling_input_ids_across_chains": False,
    },
)
