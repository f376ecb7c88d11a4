"""Clusters of tokens by their responses to restrictions, where devinterp-structure is installed."""

from __future__ import annotations

import importlib.util

from devinterp.errors import InvalidInputError
from devinterp.schema import TOKEN
from devinterp.token_text import Tokenizer
from devinterp_view.coefficients import Cell, Table, susceptibility_options
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: Fewer restrictions than this have no responses that could differ; of more tokens the clusters take longer than the page may.
_LEAST_RESTRICTIONS, _MOST_TOKENS = 3, 8192
#: Clusters that are shown, and characters of what each says.
_MOST_ROWS, _MOST_CHARACTERS = 100, 300


def can_have_clusters(subject: Subject) -> bool:
    """Say whether a run is one that clusters are looked for in."""
    parts = [each for each in subject.restrictions if each != "full"]
    return len(parts) >= _LEAST_RESTRICTIONS and importlib.util.find_spec("devinterp_structure") is not None


def cluster_list(subject: Subject, sampling_task: str | None, tokenizer: Tokenizer | None) -> Table:
    """Return a row for each cluster: how many tokens it has, its conductance, its most frequent tokens, some in their texts.

    Raises
    ------
    InvalidInputError
        If there are too many tokens, or too few.
    """
    from devinterp_structure import cluster_table, clusters, gaussian_null, response_matrix

    options = {key: value for key, value in susceptibility_options(subject).items() if key != "include_sampling_task"}
    matrix = response_matrix(subject.run, sampling_task, leave_out_chains=False, **options)
    if matrix.sizes[TOKEN] > _MOST_TOKENS:
        raise InvalidInputError(
            f"of {matrix.sizes[TOKEN]:,} tokens clusters take longer than a page may (limit {_MOST_TOKENS:,}): "
            "`tree.slt.clusters()` computes them."
        )
    matrix = matrix.compute()
    found = clusters(matrix)
    by_chance = int(clusters(gaussian_null(matrix))["cluster"].max()) + 1
    listed = cluster_table(found, tokenizer)
    rows = [
        (
            str(row.cluster),
            [
                Cell(f"{row.size:,}", str(row.size)),
                Cell(f"{row.share:.1%}", repr(float(row.share))),
                Cell(f"{row.conductance:.3f}", repr(float(row.conductance))),
                Cell(name(row.tokens, _MOST_CHARACTERS)),
                Cell(name("  ·  ".join(row.examples), _MOST_CHARACTERS)),
            ],
        )
        for row in listed.head(_MOST_ROWS).itertuples()
    ]
    left_out = f"The largest {_MOST_ROWS} of {len(listed)} are shown." if len(listed) > _MOST_ROWS else ""
    held = float((found["cluster"] >= 0).mean())
    notes = [
        f"{len(listed)} clusters hold {held:.0%} of {matrix.sizes[TOKEN]:,} tokens; in a Gaussian cloud of the same "
        f"covariance, which has none, {by_chance} are found.",
        f"Steps: {name(', '.join(found.attrs['steps']), 600)}.",
    ]
    return Table(["tokens", "share", "conductance", "most frequent", "in their texts"], rows, left_out, notes)
