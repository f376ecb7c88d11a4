"""What an adapter's ``structure(model)`` returns: masks of the parts of a model, which restrictions are resolved against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import Masks, union

NeuronPlace = tuple[str, tuple[int, ...], int, int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """One attention head: its query rows, its output columns, and the key and value rows it reads, with their biases.

    Parameters
    ----------
    parts : mapping of str to masks
        Masks by part: ``q``, ``k``, ``v``, ``o``, ``gate``, and ``other`` for weights of the head that are in no
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
    """One attention module of a layer.

    Parameters
    ----------
    name : str
        Path of its module.
    kind : str
        ``self`` or ``cross``.
    masks : masks
        All of its weights, those shared by its heads included.
    heads : tuple of Head
        Its heads; empty if they cannot be told apart, for the reason in `no_heads`.
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
        The weights that mix tokens: attention, or a state space, convolution or recurrence in its place.
    mlp : masks
        The weights that act on each token alone; in a mixture of experts its experts, shared experts and router.
    norm : masks
        Norms and scales of the residual stream. Norms inside an attention or an MLP belong to that.
    attentions : tuple of Attention
        The attentions in `attn`, in the order they run.
    mixer : str
        Class names of modules that mix tokens beside, or instead of, attention; empty if there are none.
    experts : tuple of masks
        The routed experts.
    router : masks
        The weights that choose the experts.
    shared : masks
        The weights of the MLP, besides the router, that every token uses although there are experts.
    neurons : Neurons or None
        The hidden neurons of a dense MLP; None if they are not known.
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

    def groups(self, kind: str = "self") -> list[list[Head]]:
        """Return the same heads by the key/value head they read, attention by attention."""
        groups: dict[tuple[int, int], list[Head]] = {}
        for i, attention in enumerate(self.attentions):
            for head in attention.heads if attention.kind == kind else ():
                groups.setdefault((i, head.group), []).append(head)
        return list(groups.values())


@dataclass(frozen=True, slots=True)
class Neurons:
    """The hidden neurons of a dense MLP: rows that write them, columns that read them.

    Parameters
    ----------
    size : int
        Number of neurons.
    places : tuple of (name, shape, dim, offset, stride)
        Parameters that hold them: neuron ``n`` is index ``offset + stride * n`` of dimension ``dim``.
    """

    size: int
    places: tuple[NeuronPlace, ...]

    def masks(self, neurons: Iterable[int]) -> dict[str, Mask]:
        """Return the masks of some neurons."""
        numbers = sorted(set(neurons))
        return union(
            {name: Mask.block(shape, {dim: [offset + stride * n for n in numbers]})}
            for name, shape, dim, offset, stride in self.places
        )


@dataclass(frozen=True, slots=True)
class Structure:
    """Where the parts of a model are.

    Parameters
    ----------
    embed, unembed : masks
        The token embedding, and the projection of the last hidden states to logits.
    stacks : mapping of str to tuple of Layer
        The layers by stack, first the one that predicts tokens, ``dec``; then ``enc`` for an encoder, and other stacks by
        the name of their module.
    other : masks
        Every other weight: position embeddings, last norms, projections between stacks.
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
