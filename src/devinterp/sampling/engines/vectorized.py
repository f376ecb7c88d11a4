"""The engine of several chains as one computation: the model under vmap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeGuard, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from devinterp.sampling.data.columns import leaves, map_tensors
from devinterp.sampling.data.rows import Minibatch, Rows
from devinterp.sampling.engines.engine import DATASET, Engine
from devinterp.sampling.engines.evaluated_together import Piece, joined_minibatch, pieces_of
from devinterp.sampling.engines.folded_attention import FoldedAttention
from devinterp.sampling.engines.prefix_cache import PrefixCache
from devinterp.sampling.engines.stacked_weights import StackedWeights
from devinterp.sampling.engines.vmapped_modules import HiddenModule, LossModule, chunks_for
from devinterp.sampling.losses.loss import can_be_stored, masked
from devinterp.sampling.spec import RunSpec


@final
class VectorizedEngine(Engine):
    """Several chains, under one or several restrictions, as one computation: the model under vmap, called with their weights.

    Parameters
    ----------
    spec : RunSpec
        The run. Its model's own weights are left as they are.
    weights : StackedWeights
        The sampled parameters of all chains.
    prefix : PrefixCache, optional
        Activations of the layers before them, which all chains share.
    """

    def __init__(self, spec: RunSpec, weights: StackedWeights, prefix: PrefixCache | None = None) -> None:
        super().__init__(spec)
        self.weights: StackedWeights = weights
        self.prefix = prefix
        self.num_chains = weights.num_chains
        self._chunked = chunks_for(spec.loss, weights.parameters)
        self._module: nn.Module = (
            LossModule(spec.model, spec.loss.functional())
            if self._chunked is None
            else HiddenModule(spec.model, self._chunked)
        )
        #: Of batches by shape: whether the model attends.
        self._attends: dict[tuple[object, ...], bool] = {}
        # By itself, `functional_call` would look for names of tied parameters at every call.
        tied = {name: id(p) for name, p in spec.model.named_parameters(remove_duplicate=False)}
        self._aliases = {
            name: [f"model.{alias}" for alias, parameter in tied.items() if parameter == tied[name]]
            for name in weights.names
        }

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Make the gradients of all chains in one backward pass; see `Engine.add_gradient`."""
        minibatches = self._minibatches(sequence_ids)
        all_losses, finite = [], []
        for n, parts in enumerate(minibatches):
            total, losses, counted = self._run_step(parts)
            if total.requires_grad:  # else the loss does not depend on a sampled parameter: its gradient is zero
                (total / len(minibatches)).backward()  # type: ignore[no-untyped-call]
            if n + 1 < len(minibatches):
                self._fetch_ahead(minibatches[n + 1])
            losses, are_finite = _mark(losses.detach(), counted, self.spec.settings.largest_loss)
            all_losses.append(losses)
            finite.append(are_finite)
        return torch.cat(all_losses, 1), torch.stack(finite).all(0)

    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable for all chains; see `Engine.evaluate`."""
        return self._evaluate([observable])[observable]

    def evaluate_all(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the losses of all observables for all chains, those of alike data computed together."""
        return self._evaluate(list(self.spec.observables))

    @torch.no_grad()
    def _evaluate(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        all_losses: dict[str, list[Tensor]] = {name: [] for name in names}
        finite: dict[str, list[Tensor]] = {name: [] for name in names}
        groups = list(pieces_of(self.spec, names))
        for n, pieces in enumerate(groups):
            _, losses, counted = self._run(pieces)
            if n + 1 < len(groups):
                _, following = groups[n + 1][0]
                following.rows.prefetch(following.ids)
            start = 0
            for name, piece in pieces:
                part = slice(start, start + len(piece.ids))
                of_part = None if counted is None else counted[part]
                marked, are_finite = _mark(losses[:, part], of_part, self.spec.settings.largest_loss)
                all_losses[name].append(marked)
                finite[name].append(are_finite)
                start = part.stop
        return {name: (torch.cat(all_losses[name], 1), torch.stack(finite[name]).all(0)) for name in names}

    def _run(self, pieces: Sequence[tuple[str, Piece]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `_losses` does for batches that all chains share, one behind the other."""
        batch = joined_minibatch([piece.rows.batch(piece.ids) for _, piece in pieces])
        kept = [self._kept(piece.key, piece.rows, [piece.ids]) for _, piece in pieces]
        known = [each for each in kept if each is not None]
        joined = None
        if len(known) == len(kept):
            joined = known[0] if len(known) == 1 else [torch.cat(each) for each in zip(*known, strict=True)]
        return self._losses(batch, joined, own_rows=False)

    def _run_step(self, parts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `_losses` does for a minibatch.

        Parameters
        ----------
        parts : sequence of numpy.ndarray
            Which rows: the same for all chains, or of each chain of a restriction.
        """
        rows = self.spec.rows
        if len(parts) == 1:
            return self._run([("", Piece(DATASET, rows, parts[0]))])
        batch, kept = rows.batch(np.concatenate(parts)), self._kept(DATASET, rows, parts)
        cut = partial(_per_chain, num=len(parts), times=len(self.weights.values[0]) // len(parts))
        masks = (None if mask is None else cut(mask) for mask in batch[1:])
        batch = Minibatch(map_tensors(batch.data, cut, _refuse), *masks)
        return self._losses(batch, None if kept is None else [cut(tensor) for tensor in kept], own_rows=True)

    def _losses(
        self, batch: Minibatch, kept: list[Tensor] | None, *, own_rows: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the sum of the mean losses of all chains, their losses ``(chain, batch, *loss_dims)``, and which count.

        Parameters
        ----------
        batch, kept
            Data, and what the constant layers gave for them, if that is known.
        own_rows : bool
            Whether each chain has its own, along the first dimension, or all share them.
        """
        outputs = self._vmapped(batch, kept, own_rows=own_rows)
        if self._chunked is None or isinstance(outputs, tuple):
            mean, losses = outputs
            return mean.sum(), losses, batch.counted
        if torch.is_grad_enabled():
            total, losses = self._chunked.sum_of_means(outputs, batch.data, batch.counted)
        else:
            losses = self._chunked.losses_of(outputs, batch.data)
            total = losses.new_zeros(())
        return total, losses, batch.counted

    def _vmapped(
        self, batch: Minibatch, kept: list[Tensor] | None, *, own_rows: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Call the module for all chains; see `_losses`."""
        indices = self.weights.indices

        def one_chain(batch: Minibatch, kept: list[Tensor] | None, *mapped: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            each = iter(mapped)
            values = [next(each) for _ in self.weights.values]
            of_chain = [next(each) if _is_own(index) else index for index in indices]
            parameters = self.weights.whole_parameters(values, of_chain)
            named = {alias: value for name, value in parameters.items() for alias in self._aliases[name]}
            with nullcontext() if kept is None or self.prefix is None else self.prefix.after(kept):
                outputs: Tensor | tuple[Tensor, Tensor] = functional_call(
                    self._module, named, (batch,), tie_weights=False
                )
            return outputs

        mapped = [*self.weights.values, *filter(_is_own, indices)]
        with self._attention_folded(batch, kept):
            outputs: Tensor | tuple[Tensor, Tensor]
            if own_rows:
                of_batch = Minibatch(*(None if part is None else 0 for part in batch))  # type: ignore[arg-type]
                in_dims = (of_batch, None if kept is None else 0, *[0] * len(mapped))
                outputs = vmap(one_chain, in_dims=in_dims, randomness="error")(batch, kept, *mapped)
            else:
                # What is not mapped is no argument: vmap would take it apart, and put it together again, at every step.
                outputs = vmap(partial(one_chain, batch, kept), randomness="error")(*mapped)
        return outputs

    @contextmanager
    def _attention_folded(self, batch: Minibatch, kept: list[Tensor] | None) -> Iterator[None]:
        """Fold attention inside the block, unless the model was seen not to attend on such a batch.

        Looking for it at every call takes a tenth of a small model's time.
        """
        shapes = [leaf.shape for _, leaf in leaves(batch.data) if isinstance(leaf, Tensor)]
        like = (kept is None, torch.is_grad_enabled(), *shapes)
        if not self._attends.get(like, True):
            yield
            return
        with FoldedAttention() as folded:
            yield
        self._attends[like] = folded.num_calls > 0

    def remember(self, sequence_ids: Sequence[np.ndarray], *, anew: bool = False) -> None:
        """Compute what the constant layers give for the rows of a step, where that is not known.

        Parameters
        ----------
        sequence_ids : sequence of numpy.ndarray
            As for `add_gradient`.
        anew : bool, default: False
            Whether to compute it where it is known, too.
        """
        for parts in self._minibatches(sequence_ids):
            if anew and self.prefix is not None:
                for key, part in zip(_keys(DATASET, parts), parts, strict=True):
                    self.prefix.forget(key, self.spec.rows.index(part).numpy())
            self._kept(DATASET, self.spec.rows, parts)

    def _kept(self, key: str, rows: Rows, parts: Sequence[np.ndarray]) -> list[Tensor] | None:
        """Return the activations of the prefix for some rows, computed where they were not met before; None without any.

        Chains with rows of their own keep them apart: activations of a row may depend on its neighbours in the last bits.
        """
        if self.prefix is None:
            return None
        keys = _keys(key, parts)
        of_parts = [self._kept_of(self.prefix, each, rows, part) for each, part in zip(keys, parts, strict=True)]
        present = [each for each in of_parts if each is not None]
        if len(present) < len(parts):
            return None
        return present[0] if len(parts) == 1 else [torch.cat(tensors) for tensors in zip(*present, strict=True)]

    @torch.no_grad()
    def _kept_of(self, prefix: PrefixCache, key: str, rows: Rows, part: np.ndarray) -> list[Tensor] | None:
        index = rows.places(part)
        kept = prefix.kept(key, index)
        if kept is None and prefix.can_hold(key):
            batch, attention_mask, _ = rows.batch(part)
            with prefix.rows(key, index, len(rows.ids)):
                self.spec.loss.losses(self.spec.model, batch, attention_mask)
            kept = prefix.kept(key, index)
        return kept


def _is_own(index: Tensor | None) -> TypeGuard[Tensor]:
    """Return whether each chain has indices of its own; else all have the same, or every element is sampled."""
    return index is not None and index.ndim == 2


def _per_chain(data: Tensor, *, num: int, times: int) -> Tensor:
    """Return a tensor with its first dimension cut into one part for each chain, once more for each restriction."""
    parts = data.view(num, -1, *data.shape[1:])
    return parts if times == 1 else parts.repeat(times, *[1] * (parts.ndim - 1))


def _refuse(_: list[Any]) -> None:
    raise TypeError("minibatches of their own with parts that are no tensors cannot be stacked")


def _keys(key: str, parts: Sequence[np.ndarray]) -> list[str]:
    """Return the keys of a data set among cached activations: one, or of each chain its own."""
    return [key] if len(parts) == 1 else [f"{key}/{n}" for n in range(len(parts))]


def _mark(losses: Tensor, counted: Tensor | None, largest: float) -> tuple[Tensor, Tensor]:
    """Return the losses, NaN where masked, and whether a store can hold those of each chain that count."""
    if counted is None:
        return losses, can_be_stored(losses, largest).flatten(1).all(1)
    counted = counted.view(-1, *losses.shape[1:])  # one for all chains, or for each its own
    return masked(losses, counted), can_be_stored(torch.where(counted, losses, 0), largest).flatten(1).all(1)
