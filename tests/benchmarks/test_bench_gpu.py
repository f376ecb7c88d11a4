"""What sampling reaches on one GPU. Run with ``pytest -m gpu tests/benchmarks -s`` where there is one.

Figures are printed, for docs/performance.md; a benchmark fails only where it contradicts what the docs promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import plain_loop
from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.chains.loop import run_chains
from devinterp.sampling.engines.plan import engines_of, plan
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.losses.loss import NextTokenLoss
from devinterp.sampling.prepare import prepare
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec
from devinterp.slt.sampling import sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.benchmark,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

#: Dense bfloat16 peak, FLOP/s, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
SGLD = {"lr": 1e-7, "n_beta": 30.0, "localization": 100.0}


def report(what: str, **figures: float | str) -> None:
    """Print figures, to be copied into docs/performance.md."""
    shown = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    print(f"\n{what}: " + ", ".join(shown), flush=True)


def half_billion() -> nn.Module:
    """Return a random-weight model of 0.5 billion parameters with 151,936 words, in bfloat16 on the GPU."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        return transformers.Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a function takes, device included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def run_one_chain(spec: RunSpec) -> str:
    """Run one chain and discard its draws; return how much of the model was reused."""
    with closing(engines_of(spec, plan(spec, list(spec.restrictions), [0], "sequential"), SharedPrefix())) as engines:
        for engine, batch in engines:
            for _ in run_chains(engine, restrictions=[0], chains=batch.chains):
                pass
    return engine.note


def spec_of(model: nn.Module, restriction: str | None, *, draws: int, batch: int, **options: Any) -> RunSpec:
    """Return a prepared run on random tokens, 1,024 to a sequence."""
    data = torch.randint(model.config.vocab_size, (4 * batch, 1024), generator=torch.Generator().manual_seed(0))
    settings = Settings(num_chains=1, num_draws=draws, batch_size=batch, **SGLD, **options)
    masks = as_param_masks(model, restriction)
    return prepare(model, data, {"a": (data, 1)}, settings, restrictions={restriction or "full": masks})


def test_half_a_billion_parameters() -> None:
    model, batch, steps = half_billion(), 16, 12
    num = sum(p.numel() for p in model.parameters())
    spec = spec_of(model, None, draws=1, batch=batch, num_burnin_steps=steps)
    run_one_chain(spec)  # warm up
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    elapsed = seconds(lambda: run_one_chain(spec))
    tokens = (steps + 1) * batch * 1024
    # Six FLOPs for each parameter and token of a step, two for each of an evaluation (a third of the step's).
    flops = 6 * num * tokens + 2 * num * batch * 1024
    peak = next((value for key, value in PEAKS.items() if key in torch.cuda.get_device_name()), float("nan"))
    report(
        "0.5B parameters, bfloat16, batch 16 x 1024",
        device=torch.cuda.get_device_name(),
        loss=spec.choices["loss"],
        tokens_per_second=tokens / elapsed,
        fraction_of_peak=flops / elapsed / peak,
        gib_above_model=(torch.cuda.max_memory_allocated() - base) / 2**30,
        model_gib=base / 2**30,
    )
    assert spec.choices["loss"] == "chunked"


def test_loss_in_chunks_against_all_logits() -> None:
    model = half_billion()
    spec = spec_of(model, None, draws=1, batch=16)
    fast, plain = spec.loss, NextTokenLoss(spec.loss.adapter)
    batch = spec.rows.batch(spec.rows.ids[:16]).data

    def step(loss: Any) -> None:
        loss.mean(model, batch, None)[0].backward()
        model.zero_grad(set_to_none=True)

    peaks = {}
    for name, loss in (("chunked", fast), ("plain", plain)):
        step(loss)
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        elapsed = min(seconds(lambda loss=loss: step(loss)) for _ in range(3))
        peaks[name] = (torch.cuda.max_memory_allocated() - base) / 2**30
        report(f"forward and backward, {name}", seconds=elapsed, gib_above_model=peaks[name])
    assert peaks["chunked"] < peaks["plain"] - 2  # the logits alone, in bfloat16, are 4.6 GiB


def test_one_head_of_the_last_layer() -> None:
    model, draws = half_billion(), 12
    whole, head = (spec_of(model, name, draws=draws, batch=16) for name in (None, "l23h0"))
    for spec in (whole, head):
        run_one_chain(spec)
    elapsed = {name: seconds(lambda p=p: run_one_chain(p)) / draws for name, p in (("full", whole), ("l23h0", head))}
    report(
        "seconds per draw (a step and an evaluation of 16 x 1024 tokens)",
        full=elapsed["full"],
        l23h0=elapsed["l23h0"],
        ratio=elapsed["full"] / elapsed["l23h0"],
        prefix=run_one_chain(head),
    )
    assert elapsed["full"] > elapsed["l23h0"]


def test_against_the_plain_loop(tmp_path: Path) -> None:
    """Everything a run does, its store among it, for one chain of the whole model and of one head."""
    model, batch = half_billion(), 4
    data = torch.randint(model.config.vocab_size, (16, 512), generator=torch.Generator().manual_seed(0))
    paths = iter(range(1000))
    for head, draws in ((None, 6), ("l23h0", 12)):
        masks = as_param_masks(model, head)
        dense = None if head is None else {name: mask.to_bool().cuda() for name, mask in masks.items()}

        def ours(masks: Any = masks, draws: int = draws, **options: Any) -> None:
            sample(
                model, data, {"a": (data, 1)}, param_masks=masks, num_chains=1, num_draws=draws, batch_size=batch,
                num_init_loss_batches=1, output_path=tmp_path / f"{next(paths)}.zarr", progress=False, **SGLD, **options,
            )  # fmt: skip

        def plain(dense: Any = dense, draws: int = draws) -> None:
            batches, parts = list(data.cuda().split(batch)), {"a": [data[:batch].cuda()]}
            plain_loop.sample(
                model, batches, parts, tmp_path / "plain", num_chains=1, num_draws=draws, masks=dense, **SGLD
            )

        found = {}
        for name, run in (("ours", ours), ("compiled", partial(ours, compile=True)), ("plain", plain)):
            run()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
            found[name] = seconds(run)
            found[f"{name}_gib"] = (torch.cuda.max_memory_allocated() - base) / 2**30
        # So few draws show what a run does once: nothing is promised of it but that it is known.
        report(f"{head or 'full'}, 4 x 512 tokens, {draws} draws", **found, speedup=found["plain"] / found["ours"])


def test_heads_of_the_last_layer_side_by_side() -> None:
    """Eight heads of a 12-layer Llama with four chains each, against one after the other."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=5000, hidden_size=256, intermediate_size=688, num_hidden_layers=12, num_attention_heads=8
    )
    model = transformers.LlamaForCausalLM(config).cuda().eval()
    data = torch.randint(5000, (64, 128), generator=torch.Generator().manual_seed(0))
    heads = [f"l11h{n}" for n in range(8)]
    elapsed = {}
    for mode in ("sequential", "vectorized", "auto"):
        for draws in (2, 20):
            elapsed[mode] = seconds(
                lambda mode=mode, draws=draws: sample(
                    model, data, {"a": (data, 1)}, weight_restrictions=heads, num_chains=4, num_draws=draws, batch_size=8,
                    num_init_loss_batches=1, chains=mode, progress=False, **SGLD,
                )
            )  # fmt: skip
    report("8 heads, 4 chains, 20 draws", **elapsed, ratio=elapsed["sequential"] / elapsed["vectorized"])
    assert elapsed["sequential"] > elapsed["vectorized"]


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


def test_32_chains_of_a_small_model() -> None:
    model, points = Regression(310).cuda(), torch.randn(1024, 9)
    elapsed = {}
    for mode in ("sequential", "vectorized"):
        for steps in (20, 300):
            elapsed[mode] = seconds(
                lambda mode=mode, steps=steps: sample(
                    model,
                    (points[:, :8], points[:, 8]),
                    loss_fn=lambda m, batch: (m(batch[0]) - batch[1]) ** 2,
                    num_chains=32,
                    num_draws=steps,
                    batch_size=256,
                    num_init_loss_batches=1,
                    chains=mode,
                    progress=False,
                    **SGLD,
                )
            )
    report("100,000 parameters, 32 chains, 300 steps", **elapsed, ratio=elapsed["sequential"] / elapsed["vectorized"])
    assert elapsed["sequential"] > elapsed["vectorized"]


def test_same_numbers_as_on_the_cpu() -> None:
    model, points = Regression(27), torch.randn(1024, 9)
    settings = {
        "num_chains": 2,
        "num_draws": 5,
        "batch_size": 256,
        "num_init_loss_batches": 1,
        "noise_level": 0.0,
        **SGLD,
    }
    # Without noise: the random streams of the two devices differ.
    found = [
        sample(
            model,
            (points[:, :8], points[:, 8]),
            loss_fn=lambda m, batch: (m(batch[0]) - batch[1]) ** 2,
            device=device,
            chains="sequential",
            progress=False,
            **settings,
        )
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(
        torch.as_tensor(found[0]["trace/loss"].values),
        torch.as_tensor(found[1]["trace/loss"].values),
        rtol=1e-4,
        atol=1e-5,
    )
    assert next(model.parameters()).device.type == "cpu"
