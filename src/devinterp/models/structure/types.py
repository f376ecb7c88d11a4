"""Where the parts of a model are: what an adapter's ``structure(model)`` returns and restrictions are read against.

Importing this loads no torch; `Mask` objects come from whoever detects the structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devinterp.models.masks.mask import Mask

Masks = Mapping[str, "Mask"]


def union(parts: Iterable[Masks]) -> dict[str, Mask]:
    """Return the union of masks by parameter name."""
    total: dict[str, Mask] = {}
    for part in parts:
        for name, mask in part.items():
            total[name] = total[name] | mask if name in total else mask
    return total


def difference(whole: Masks, part: Masks) -> dict[str, Mask]:
    """Return `whole` without `part`; parameters of which nothing is left are left out."""
    rest = {name: mask - part[name] if name in part else mask for name, mask in whole.items()}
    return {name: mask for name, mask in rest.items() if not mask.is_empty}


@dataclass(frozen=True, slots=True)
class Head:
    """One attention head: its query rows, its output columns, and the key and value rows it reads, with their biases.

    Parameters
    ----------
    parts : mapping of str to masks
        Masks by part: ``q``, ``k``, ``v``, ``o``, ``gate``, and ``other`` for what belongs to the head and is no
        projection (attention sinks, position biases, per-head norms).
    group : int
        Index of the key/value head it reads; heads of one group share key and value rows.
    """

    parts: Mapping[str, Masks]
    group: int

    @property
    def masks(self) -> dict[str, Mask]:
        """All of its weights."""
        return union(self.parts.values())


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention of a layer.

    Parameters
    ----------
    name : str
        Path of its module.
    kind : str
        ``self`` or ``cross``.
    masks : masks
        All of its weights, those shared by its heads included.
    heads : tuple of Head
        Its heads; empty where they cannot be told apart, for the reason in `no_heads`.
    no_heads : str
        Why there are no heads.
    """

    name: str
    kind: str
    masks: Masks
    heads: tuple[Head, ...] = ()
    no_heads: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `attn`, `mlp` and `norm` are disjoint and cover it.

    Parameters
    ----------
    name : str
        Path of its module.
    attn : masks
        What mixes tokens: attention, or what a layer has in its place (state space, convolution, recurrence).
    mlp : masks
        What works on each token alone; of a mixture of experts, its experts, shared experts and router.
    norm : masks
        Norms and scales of the residual stream. Norms inside an attention or an MLP belong to that.
    attentions : tuple of Attention
        The attentions in `attn`, in the order they run.
    mixer : str
        What mixes tokens beside, or instead of, attention: the class of that module, or empty.
    experts : tuple of masks
        The routed experts.
    router : masks
        What chooses the experts.
    shared : masks
        What of the MLP runs for every token beside the routed experts.
    neurons : tuple of masks
        Masks of the hidden neurons of a dense MLP, one for each of `num_neurons`, made on demand.
    """

    name: str
    attn: Masks
    mlp: Masks
    norm: Masks
    attentions: tuple[Attention, ...] = ()
    mixer: str = ""
    experts: tuple[Masks, ...] = ()
    router: Masks = field(default_factory=dict)
    shared: Masks = field(default_factory=dict)
    neurons: Neurons | None = None

    @property
    def masks(self) -> dict[str, Mask]:
        """All weights of the layer."""
        return union((self.attn, self.mlp, self.norm))

    def heads(self, kind: str = "self") -> list[Head]:
        """Return the heads of all attentions of one kind, in the order they run."""
        return [head for attention in self.attentions if attention.kind == kind for head in attention.heads]


@dataclass(frozen=True, slots=True)
class Neurons:
    """The hidden neurons of a dense MLP: rows that write them, columns that read them.

    Parameters
    ----------
    size : int
        How many there are.
    places : tuple of (name, shape, dim, offset, stride)
        Parameters that hold them: neuron ``n`` is index ``offset + stride * n`` of dimension ``dim``.
    """

    size: int
    places: tuple[tuple[str, tuple[int, ...], int, int, int], ...]

    def masks(self, neurons: Iterable[int]) -> dict[str, Mask]:
        """Return the masks of some neurons."""
        from devinterp.models.masks.mask import Mask

        chosen = sorted(set(neurons))
        return union(
            {name: Mask.block(shape, {dim: [offset + stride * n for n in chosen]})}
            for name, shape, dim, offset, stride in self.places
        )


@dataclass(frozen=True, slots=True)
class Structure:
    """Where the parts of a model are.

    Parameters
    ----------
    embed, unembed : masks
        The token embedding, and what maps last hidden states to logits.
    stacks : mapping of str to tuple of Layer
        The layers by stack: ``dec`` for the one that predicts tokens, ``enc`` for an encoder, other stacks by the name
        of their module.
    other : masks
        Every weight outside: position embeddings, last norms, projections between stacks.
    notes : tuple of str
        What a reader of masks should know, for example that embedding and unembedding share one tensor.
    """

    embed: Masks
    unembed: Masks
    stacks: Mapping[str, tuple[Layer, ...]]
    other: Masks = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the stack that predicts tokens."""
        return next(iter(self.stacks.values()), ())

    def __iter__(self) -> Iterator[tuple[str, int, Layer]]:
        for stack, layers in self.stacks.items():
            for index, layer in enumerate(layers):
                yield stack, index, layer
