"""A fast path that gives other numbers is refused by whoever would use it; one comparison decides for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from devinterp.sampling.engines import vectorization
from devinterp.sampling.engines.equivalence import TOLERANCES, Computed, differences, tolerance_of, why_refused
from devinterp.sampling.engines.prefix_cache import PrefixCache
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.losses import chunked_cross_entropy
from support.engines import paths_of
from support.small_models import TinyModel, run, same_numbers

Change = Callable[[Tensor], Tensor]


class Layered(TinyModel):
    """With a stack of layers, so that those before the sampled one can be reused."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden))
        return self.head(hidden)


def layered() -> Layered:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layered().eval()


# Each fast path, with something changed in what it computes: (how to change it, arguments that would use it, its key).


def change_chunked(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    original = chunked_cross_entropy.token_losses
    monkeypatch.setattr(chunked_cross_entropy, "token_losses", lambda *a, **k: change(original(*a, **k)))


def change_prefix(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    original = PrefixCache.rows

    @contextmanager
    def rows(self: PrefixCache, key: str, index: np.ndarray, num_rows: int) -> Iterator[None]:
        wrap = type(self.prefix).wrap
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self.prefix), "wrap", lambda prefix, kept: change(wrap(prefix, kept)))
            with original(self, key, index, num_rows):
                yield

    monkeypatch.setattr(PrefixCache, "rows", rows)


def change_vectorized(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    original = VectorizedEngine.add_gradient

    def add_gradient(self: VectorizedEngine, sequence_ids: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        losses, finite = original(self, sequence_ids)
        return change(losses), finite

    monkeypatch.setattr(VectorizedEngine, "add_gradient", add_gradient)


PATHS = {
    "chunked": (change_chunked, {}, "loss", "chunked"),
    "prefix": (change_prefix, {"param_masks": {"layers.2.weight": None}}, "prefix/custom", "2 layers reused"),
    "vectorized": (change_vectorized, {"chains": "auto"}, "chains/full", "vectorized: "),
}


def slightly(values: Tensor) -> Tensor:
    """Change everything by a hundredth: more than rounding, less than anybody sees."""
    return values * 1.01


def with_a_nan(values: Tensor) -> Tensor:
    values = values.clone()
    values.view(-1)[0] = torch.nan
    return values


def failing(values: Tensor) -> Tensor:
    raise RuntimeError("this path does not work")


def shortened(values: Tensor) -> Tensor:
    return values[:, :-1] if values.ndim > 1 else values[:-1]


@pytest.mark.parametrize("path", PATHS)
def test_it_is_used_where_it_is_right(path):
    _, arguments, key, note = PATHS[path]
    assert paths_of(run(layered(), **{"chains": "sequential", **arguments}))[key].startswith(note)


@pytest.mark.parametrize("change", [slightly, with_a_nan, failing, shortened])
@pytest.mark.parametrize("path", PATHS)
def test_it_is_refused_where_it_is_wrong_and_the_numbers_are_right(path, change, monkeypatch):
    alter, arguments, key, note = PATHS[path]
    arguments = {"chains": "sequential", **arguments}
    expected = run(layered(), **{**arguments, "chains": "sequential"})
    alter(monkeypatch, change)
    tree = run(layered(), **arguments)
    chosen = paths_of(tree)[key]
    assert not chosen.startswith(note)
    assert "differ" in chosen or "does not run" in chosen
    for name in ("trace/loss", "trace/init_loss"):
        np.testing.assert_allclose(tree[name], expected[name], rtol=1e-6)


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 4])
def test_a_gradient_that_is_lost_is_seen(lost, monkeypatch):
    original = vectorization.VectorizedEngine.add_gradient

    def add_gradient(self, sequence_ids):
        computed = original(self, sequence_ids)
        self.weights.values[lost].grad = None
        return computed

    monkeypatch.setattr(vectorization.VectorizedEngine, "add_gradient", add_gradient)
    assert "gradients differ by" in paths_of(run(chains="auto"))["chains/full"]


@pytest.mark.parametrize(
    ("fast", "plain", "difference"),
    [([1, 2], [1, 4], 0.5), ([7, 2], [np.nan, 2], 0), ([np.nan, 2], [1, 2], np.inf), ([0, 0], [0, 0], 0), ([], [], 0)],
)
def test_differences_leave_out_masked_losses_and_nothing_else(fast, plain, difference):
    fast, plain = (torch.tensor(values, dtype=torch.float32) for values in (fast, plain))
    assert differences(Computed([fast]), Computed([plain])) == {"losses": difference, "gradients": 0.0}


def test_gradients_may_differ_by_ten_times_as_much_and_small_ones_are_held_against_the_steepest():
    plain = Computed([], [torch.tensor([1.0, 0.5], dtype=torch.double), torch.tensor([1e-9, 0.0], dtype=torch.double)])
    fast = Computed([], [plain.gradients[0] + torch.tensor([0.0, 1e-3]), -plain.gradients[1]])
    assert differences(fast, plain)["gradients"] == pytest.approx(1e-4)
    wrong = Computed([], [plain.gradients[0], torch.tensor([2e-3, 0.0])])
    assert differences(wrong, plain)["gradients"] == pytest.approx(2e-3)


def test_the_coarsest_dtype_decides_unless_the_arithmetic_is_the_same():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16))
    assert tolerance_of(model) == TOLERANCES[torch.bfloat16] > tolerance_of(model, same_arithmetic=True)
    assert tolerance_of(nn.Linear(2, 2)) == TOLERANCES[torch.float32]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tolerance_of(nn.Linear(2, 2)) == TOLERANCES[torch.bfloat16]


def test_errors_that_are_none_of_the_path_are_raised():
    def interrupted() -> Computed:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        why_refused(interrupted, lambda: Computed([]), how="at all", tolerance=1.0)


def test_the_same_choice_whatever_the_load(monkeypatch):
    """The decision is made from counted operations: a clock that says anything changes nothing."""
    tree = run(chains="auto")
    monkeypatch.setattr(vectorization.time, "perf_counter", iter(range(0, 10**9, 10**3)).__next__)
    again = run(chains="auto")
    assert paths_of(again) == paths_of(tree)
    same_numbers(again, tree)
    assert "operations" in paths_of(tree)["chains/full"]
