"""The weights of each attention head, found by gradients.

The input of the output projection is cut into one slice per head: the support of a slice's gradient *is* what the head
depends on, whatever the layout of the projections. The gradients are those of a copy with random weights (`probing_run`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from devinterp.models.structure.head_parts import Heads, assemble_heads, output_labels
from devinterp.models.structure.head_supports import (
    Support,
    all_have_private_weights,
    head_supports,
    num_rows,
    within_queries,
)
from devinterp.models.structure.module_kinds import is_projection
from devinterp.models.structure.probing_run import ProbingRun, depends, probing_copy, probing_run, random_call
from devinterp.models.structure.trace import Call, float_arguments


def probe_heads(module: nn.Module, call: Call) -> Heads | None:
    """Return the heads of an attention module, or None if `module` holds no output projection fed by its attention.

    Parameters
    ----------
    module : torch.nn.Module
        The attention; it is copied and left alone.
    call : (tuple, dict)
        Arguments of one call of it, batch of one.

    Raises
    ------
    ValueError
        No division of the output projection's input gives every head weights of its own.
    """
    twin, call = probing_copy(module), random_call(call)
    run, modules = probing_run(twin, call), dict(twin.named_modules())
    tried: list[int] = []
    for attended, candidates in reversed(list(zip(run.attended, run.num_heads, strict=True))):
        output = _output_projection(run, modules, attended)
        if output is None:
            continue
        given, labels = run.inputs[output], output_labels(twin, call, run, output)
        candidates = _of_one_window(candidates, call, run.num_queries)
        rows = num_rows(given, run.num_queries)
        if given.ndim == 2 and rows != run.num_queries:
            # Experts that share a token have a row each.
            candidates = (candidates[0] * run.num_queries // rows,)
        divisions = [n for n in candidates if n > 0 and given.numel() % (rows * n) == 0]
        supports = {n: head_supports(twin, run, output, n) for n in divisions}
        tried += divisions
        tests: list[Callable[[list[Support]], bool]] = [
            lambda s, labels=labels: all_have_private_weights(within_queries(s, labels, modules)),  # type: ignore[misc]
            all_have_private_weights,
            # Differential attention shares queries between some heads and values between others.
            lambda s: len({frozenset(support.items()) for support in s}) == len(s),
        ]
        for test in tests:
            for n in divisions:
                if test(supports[n]):
                    return assemble_heads(twin, run, call, output, supports[n], labels)
    if tried:
        raise ValueError(f"no division into {tried} heads gives each of them weights of its own")
    return None


def _of_one_window(candidates: tuple[int, ...], call: Call, num_queries: int) -> tuple[int, ...]:
    """Return possible numbers of heads where an image comes in windows, each a row of the batch: not heads times windows."""
    hidden = next((x for x in float_arguments(call) if x.ndim == 3), None)
    if hidden is None or hidden.shape[0] == 1 or hidden.shape[1] != num_queries:
        return candidates
    return tuple(dict.fromkeys(n // len(hidden) if n % len(hidden) == 0 else n for n in candidates))


def _output_projection(run: ProbingRun, modules: dict[str, nn.Module], attended: Tensor) -> str | None:
    """Return the first projection that reads the output of the attention."""
    for path, given in run.inputs.items():
        if path not in run.before and is_projection(modules[path]) and depends(given, attended):
            return path
    return None
