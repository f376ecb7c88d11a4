r"""A sketch of the displacement :math:`w - w_0`: a few numbers that keep inner products and distances between draws.

A **count sketch** [1]_ adds each weight's displacement, with a random sign, to a random one of m buckets,
:math:`s_b = \sum_{i: h(i) = b} \sigma_i (w - w_0)_i`. A **projection** multiplies with a random matrix of entries
:math:`\pm 1/\sqrt m`. Either way :math:`\mathrm{E}\, s(x) \cdot s(y) = x \cdot y`, with variance
:math:`(|x|^2 |y|^2 + (x \cdot y)^2 - 2 \sum_i x_i^2 y_i^2) / m`. Buckets, signs and matrices depend on the seed, the name of
a parameter and the place in it, not on the weight restriction: sketches of different restrictions can be compared.

A count sketch keeps four bytes for each weight and adds each once at a draw; a projection takes m times as much arithmetic.

References
----------
.. [1] M. Charikar, K. Chen, M. Farach-Colton. Finding frequent items in data streams. ICALP 2002.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.types import RecordedRun, Recorder, Recording, Snapshot

if TYPE_CHECKING:
    import torch
    from torch import Tensor

METHODS = ("count", "projection")
#: Weights whose rows of the random matrix are made at once.
_BLOCK = 2**14


def build(run: RecordedRun, *, size: int = 256, seed: int = 0, method: str = "count") -> Recording:
    """Record a seeded random sketch of the displacement from the initial weights.

    Parameters
    ----------
    run : RecordedRun
        The run.
    size : int, default: 256
        Numbers of a sketch, at least 1. An inner product has a relative standard error of about ``1 / sqrt(size)``.
    seed : int, default: 0
        Seeds buckets, signs and matrices.
    method : {"count", "projection"}, default: "count"
        A count sketch, or a random projection.

    Returns
    -------
    Recording
        ``sketch(bucket)``, float32; zero at the initial weights.

    Raises
    ------
    InvalidInputError
        If `size` or `method` is none.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidInputError(f"recorder 'sketch': `size` (={size!r}) must be a whole number, at least 1.")
    if method not in METHODS:
        raise InvalidInputError(f"recorder 'sketch': `method` (={method!r}) must be one of {', '.join(METHODS)}.")
    part = CountSketch(size, seed) if method == "count" else RandomProjection(size, seed)
    return Recording(Sketch(part, size), dims={"sketch": ("bucket",)})


@final
@dataclass(frozen=True)
class Sketch:
    """Sums the sketches of all parameters.

    Parameters
    ----------
    part : CountSketch or RandomProjection
        The sketch of one parameter.
    size : int
        Numbers of a sketch.
    """

    part: CountSketch | RandomProjection
    size: int

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Tensor]:
        """Return ``sketch``, float32 ``(bucket,)``."""
        import torch

        device = next(snapshot.model.parameters()).device
        total = torch.zeros(self.size, dtype=torch.float64, device=device)
        for name, moved in snapshot.displacement():
            total += self.part(name, moved.flatten().double())
        return {"sketch": total.float()}


@final
class CountSketch:
    """The count sketch of a vector that comes in named parts.

    Parameters
    ----------
    size : int
        Number of buckets.
    seed : int
        Seeds buckets and signs.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._places: dict[str, Tensor] = {}

    def __call__(self, name: str, values: Tensor) -> Tensor:
        """Return the sketch of one part, float64 ``(bucket,)``."""
        import torch

        places = self._places.get(name)
        if places is None or places.device != values.device:
            # The bucket, and in the last bit the sign.
            places = torch.randint(
                2 * self._size, (len(values),), generator=generator(self._seed, name), dtype=torch.int32
            ).to(values.device)
            self._places[name] = places
        sums = values.new_zeros(2 * self._size)
        if values.device.type == "cpu":
            sums.index_add_(0, places, values)
        else:  # in a fixed order on a GPU, which `index_add_` is not
            sums.index_put_((places.long(),), values, accumulate=True)
        of_signs: Tensor = sums.view(self._size, 2)
        return of_signs[:, 0] - of_signs[:, 1]

    def __reduce__(self) -> tuple[Any, ...]:
        return CountSketch, (self._size, self._seed)


@final
class RandomProjection:
    """The projection of a vector that comes in named parts onto random directions.

    Parameters
    ----------
    size : int
        Number of directions.
    seed : int
        Seeds the matrix, which is made anew every time.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def __call__(self, name: str, values: Tensor) -> Tensor:
        """Return the projection of one part, float64 ``(bucket,)``."""
        import torch

        total, source = values.new_zeros(self._size), generator(self._seed, name)
        for first in range(0, len(values), _BLOCK):
            part = values[first : first + _BLOCK]
            signs = torch.randint(2, (len(part), self._size), generator=source, dtype=torch.int8).to(part.device)
            total += part @ (signs.to(part.dtype) * 2 - 1)
        scaled: Tensor = total / self._size**0.5
        return scaled


def generator(seed: int, name: str) -> torch.Generator:
    """Return a generator of torch that a seed and a name decide."""
    import torch

    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@hookimpl
def devinterp_recorders() -> list[Recorder]:
    """Register the recorder of sketches."""
    return [Recorder(name="sketch", build=build)]
