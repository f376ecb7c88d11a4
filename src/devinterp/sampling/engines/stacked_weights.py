"""The sampled parameters of several chains side by side, under one or several weight restrictions."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.sampling.engines.weights import SampledWeights, dense

#: Noise of up to so many elements in all is drawn in memory that is kept: parts of new memory, one for each chain, take as
#: long to make as to fill.
_MAX_KEPT = 2**20


@final
class StackedWeights(SampledWeights):
    """The weights of several chains side by side, under one or several restrictions; the model's own are left as they are.

    The chain dimension of `values` holds all chains of the first restriction, then all of the second, and so on.

    Parameters
    ----------
    model : torch.nn.Module
        The caller's model.
    restrictions : sequence of mapping of str to Mask
        The sampled elements of each restriction, of the same parameters in the same order, and as many of each (`alike`).
    num_chains : int
        Chains of each restriction.
    """

    def __init__(self, model: nn.Module, restrictions: Sequence[Mapping[str, Mask]], num_chains: int) -> None:
        super().__init__(model, restrictions[0])
        self.num_chains = num_chains
        self._num = (len(restrictions), num_chains)
        #: For each parameter the masks of all restrictions.
        self._all_masks = [[masks[name] for masks in restrictions] for name in self.names]
        taken = [torch.stack(each) for each in self._take_all()]
        self.initial_weights = [each if len(each) == 1 else each.repeat_interleave(num_chains, 0) for each in taken]
        self.values = [each.repeat_interleave(num_chains, 0) for each in taken]
        #: Where the sampled elements are in the flattened parameter, None where all are: ``(chain, element)``, or
        #: ``(element)`` under one restriction.
        self.indices = [self._index(masks) for masks in self._all_masks]
        #: Memory in which noise is drawn, and its parts for each chain; None where it is new each time.
        self._noise: Sequence[tuple[Tensor, tuple[Tensor, ...]] | None] = [None] * len(self.values)
        if len(restrictions) == 1 and sum(value.numel() for value in self.values) <= _MAX_KEPT:
            wholes = (masks[0].is_whole for masks in self._all_masks)
            pairs = zip(self.values, wholes, strict=True)
            self._noise = [_parts(torch.empty_like(value)) if is_whole else None for value, is_whole in pairs]
        for value in self.values:
            value.requires_grad_(True)

    def in_model(self, wanted: Sequence[bool]) -> Generator[int, None, None]:
        """Yield each wanted chain, with its weights in the model, which has its own again at the end."""
        own = [parameter.detach().clone() for parameter in self.parameters]

        def write(masks: Sequence[Mask], values: Sequence[Tensor]) -> None:
            for mask, parameter, value in zip(masks, self.parameters, values, strict=True):
                mask.put_(parameter.detach(), value)

        try:
            for chain in (number for number, is_wanted in enumerate(wanted) if is_wanted):
                write(self._masks_of(chain), [value[chain] for value in self.values])
                yield chain
                # The next chain may be of another restriction.
                write([Mask.whole(parameter.shape) for parameter in self.parameters], own)
        finally:
            write([Mask.whole(parameter.shape) for parameter in self.parameters], own)

    def _masks_of(self, chain: int) -> Sequence[Mask]:
        return [masks[chain // self.num_chains] for masks in self._all_masks]

    def store(self) -> None:
        """Do nothing: the model is called with the values."""

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """Return the gradients of the values, ``(chain, *shape)`` each, and clear them."""
        gradients = [torch.zeros_like(v) if v.grad is None else dense(v.grad) for v in self.values]
        for value in self.values:
            value.grad = None
        return gradients

    def noise(self, generators: Sequence[torch.Generator], level: float) -> Iterator[Tensor]:
        """Yield normal noise for each parameter; the same number of a chain has the same noise under every restriction.

        Parameters
        ----------
        generators : sequence of torch.Generator
            One for each chain of a restriction: what is drawn for a parameter does not depend on the mask.
        level : float
            Standard deviation.
        """
        parts = zip(self._all_masks, self.parameters, self.values, self._noise, strict=True)
        for masks, parameter, value, kept in parts:
            if len(masks) == 1 and masks[0].is_whole:
                drawn, of_chains = kept or _parts(torch.empty_like(value))
                for of_chain, generator in zip(of_chains, generators, strict=True):
                    of_chain.normal_(generator=generator)
                noise = drawn.clone() if kept else drawn
            else:
                noise = torch.empty_like(value)
                by_restriction = noise.view(*self._num, *value.shape[1:])
                whole = torch.empty(parameter.shape, dtype=value.dtype, device=value.device)
                for n, generator in enumerate(generators):
                    whole.normal_(generator=generator)
                    for part, mask in zip(by_restriction[:, n].unbind(), masks, strict=True):
                        part.copy_(mask.take(whole).view_as(part))
            yield noise if level == 1 else noise.mul_(level)

    def whole_parameters(self, values: Sequence[Tensor], indices: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Return the parameters of one chain, ``(*shape)`` each, from its values; differentiable, also under vmap.

        Parameters
        ----------
        values : sequence of Tensor
            Those of one chain.
        indices : sequence of Tensor or None
            Where they belong, as in `indices`, of its restriction.
        """
        whole = {}
        for name, parameter, value, index in zip(self.names, self.parameters, values, indices, strict=True):
            if index is None and value.shape == parameter.shape and value.dtype == parameter.dtype:
                whole[name] = value
            elif index is None:
                whole[name] = value.to(parameter.dtype).view(parameter.shape)
            else:
                flat = parameter.detach().flatten()
                whole[name] = flat.scatter(0, index, value.flatten().to(flat.dtype)).view(parameter.shape)
        return whole

    def _take_all(self) -> Iterator[list[Tensor]]:
        for masks, parameter in zip(self._all_masks, self.parameters, strict=True):
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            yield [mask.take(parameter).to(dtype).clone() for mask in masks]

    def _index(self, masks: Sequence[Mask]) -> Tensor | None:
        if masks[0].is_whole:
            return None
        rows = torch.stack([mask.to_bool().flatten().nonzero()[:, 0] for mask in masks]).to(self.device)
        return rows[0] if len(rows) == 1 else rows.repeat_interleave(self._num[1], 0)


def _parts(noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a tensor and its part for each chain."""
    return noise, noise.unbind()


def alike(one: Mapping[str, Mask], other: Mapping[str, Mask]) -> bool:
    """Return whether two restrictions sample as many elements of the same parameters, in the same order."""
    pairs = zip(one.items(), other.items(), strict=False)
    return len(one) == len(other) and all(
        a == b and first.values_shape == second.values_shape and first.is_whole == second.is_whole
        for (a, first), (b, second) in pairs
    )
