"""Patterns of tokens, how components separate them, and tables of clusters with their texts."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.testing import AnalysisTests, synthetic_tree
from support.planted_structure import modes

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import (
    PATTERNS,
    cluster_table,
    clusters,
    devinterp_analyses,
    matrix_of_chains,
    patterns,
    pca,
    separation,
)

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}
WORDS = [
    "The",
    " fox",
    "es",
    " ",
    "(",
    "12",
    ")",
    "\n",
    " 3.5",
    " The",
    " x1",
    ",",
    " fox",
    "es",
    ".",
    '"',
    " don",
    "'",
    "t",
]


class Decoder:
    """A tokenizer of these words."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join(WORDS[token] for token in token_ids)


class TestPatterns(AnalysisTests):
    analysis = ANALYSES["patterns"]
    options: ClassVar = {"sampling_task": "train"}

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 3, "num_chains": 3, "num_draws": 14, **options})


def test_patterns_of_a_text() -> None:
    ids = np.arange(len(WORDS))
    got = {name: {WORDS[i] for i in np.flatnonzero(function(WORDS, ids))} for name, function in PATTERNS.items()}
    assert got == {
        "word_start": {"The", " fox", " The", " x1", " don", "t"},
        "word_end": {"es"},
        "space": {" ", "\n"},
        "delimiter": {"(", ")", ",", ".", '"', "'"},
        "numeric": {"12", " 3.5"},
        "induction": set(),
    }
    # " fox" at 1 and 12 is the same token to a tokenizer, and so is "es".
    tokens = np.array([WORDS.index(word) for word in WORDS])
    assert np.flatnonzero(PATTERNS["induction"](WORDS, tokens)).tolist() == [13]
    assert PATTERNS["induction"](["a"] * 5, np.array([3, 3, 3, 4, 3])).tolist() == [False, False, True, False, False]
    assert all(len(function([], np.array([], int))) == 0 for function in PATTERNS.values())


def run() -> xr.DataTree:
    tree = synthetic_tree(num_restrictions=3, observables={"train": (3, 9), "text": (4, 9), "words": (5, 9)}, seed=2)
    rng = np.random.default_rng(0)
    for name in ("text", "words"):
        ids = tree[f"observables/{name}/token_ids"]
        ids.values[:] = rng.integers(len(WORDS), size=ids.shape)
    return tree


def test_patterns_stand_at_the_rows_of_their_tokens() -> None:
    tree = run()

    def third(texts: list[str], ids: np.ndarray) -> np.ndarray:
        assert len(texts) == len(ids) == 9
        return np.arange(9) == 3

    result = tree.slt.patterns(Decoder(), functions={**PATTERNS, "third": third}, sampling_task="train")
    assert result["pattern"].values.tolist() == [*PATTERNS, "third"]
    assert result.sizes["token"] == (4 + 5) * 8
    for row in range(result.sizes["token"]):
        at = result.isel(token=row)
        ids = tree[f"observables/{at['observable'].item()}/token_ids"].values[int(at["sequence"])]
        position = int(at["position"])
        assert int(at["token_id"]) == ids[position]
        word = WORDS[ids[position]]
        assert bool(at["has_pattern"].sel(pattern="third")) == (position == 3)
        assert bool(at["has_pattern"].sel(pattern="space")) == word.isspace()
        pairs = list(itertools.pairwise(ids[:position]))
        copied = (ids[position - 1], ids[position]) in pairs
        assert bool(at["has_pattern"].sel(pattern="induction")) == copied
    assert result.attrs["steps"][-1].startswith("patterns(patterns=['word_start'")


def test_without_a_tokenizer_only_ids_mean_something() -> None:
    result = run().slt.patterns(sampling_task="train")
    assert result["pattern"].values.tolist() == ["induction"]


def test_separation_is_the_area_under_the_roc_curve() -> None:
    planted = modes((3.0, 1.0), num_tokens=400)
    components = pca(matrix_of_chains(planted.values), num_components=3)
    sign = np.sign(components["loading"].to_numpy()[0] @ planted.directions[:, 0])
    has = np.stack([sign * planted.scores[:, 0] > 1, planted.scores[:, 1] > 0, np.zeros(400, bool)])
    labels = xr.Dataset({"has_pattern": (("pattern", "token"), has)}, coords={"pattern": ["a", "b", "none"]})
    result = separation(components, labels)
    for pattern in range(2):
        for component in range(3):
            expected = roc_auc_score(has[pattern], components["score"][:, component])
            assert float(result["auc"][pattern, component]) == pytest.approx(expected)
    assert result["auc"][0, 0] > 0.97
    assert abs(result["auc"][0, 2] - 0.5) < 4 * result["auc_se"][0, 2]
    assert np.isnan(result["auc"][2]).all()
    assert result["num_tokens"].values.tolist() == has.sum(1).tolist()
    with pytest.raises(InvalidInputError, match="same tokens"):
        separation(components, labels.isel(token=slice(5)))
    with pytest.raises(InvalidInputError, match="results of `pca`"):
        separation(labels, labels)


def test_the_error_of_separation_is_that_of_texts() -> None:
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(60):
        texts = np.repeat(np.arange(80), 4)
        score = np.repeat(rng.normal(size=80), 4)  # the tokens of a text have one score
        has = np.repeat(rng.random(80) < 0.3, 4)
        components = xr.Dataset(
            {"score": (("token", "component"), score[:, None])}, {"component": [1], "text": ("token", texts)}
        )
        labels = xr.Dataset({"has_pattern": (("pattern", "token"), has[None])}, {"pattern": ["a"]})
        result = separation(components, labels)
        values.append(float(result["auc"][0, 0]))
        errors.append(float(result["auc_se"][0, 0]))
    # Over 60 repetitions what the error is is known to 9 %.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.3)


def test_clusters_are_listed_with_their_texts() -> None:
    matrix = run().slt.response_matrix("train")
    labelled = clusters(matrix, num_neighbours=5, min_size=4)
    rows = np.arange(labelled.sizes["token"])
    labels = np.where(rows < 50, 0, np.where(rows < 60, 1, -1)).astype(np.int32)
    labelled = labelled.assign(cluster=("token", labels), conductance=("token", np.where(labels < 0, np.nan, 0.25)))
    table = cluster_table(labelled, Decoder(), num_examples=2, context=3)
    assert table["size"].tolist() == [50, 10]
    assert table["conductance"].tolist() == [0.25, 0.25]
    assert table["share"].tolist() == [50 / 72, 10 / 72]
    ids = labelled["token_ids"].to_numpy()
    first = labelled.isel(token=0)
    text, position = int(first["text"]), int(first["position"])
    shown = [WORDS[i].replace("\n", "⏎") for i in ids[text, max(0, position - 3) : position + 1]]
    assert table["examples"][0][0] == f"{''.join(shown[:-1])}⟦{shown[-1]}⟧"
    assert len(table["examples"][0]) == 2
    assert cluster_table(labelled.assign(cluster=("token", np.full(72, -1)))).empty
    with pytest.raises(InvalidInputError, match="token ids"):
        cluster_table(matrix)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InvalidInputError, match="`functions`"):
        run().slt.patterns(functions={"a": 3}, sampling_task="train")
    with pytest.raises(InvalidInputError, match="'short'"):
        run().slt.patterns(functions={"short": lambda texts, ids: [True]}, sampling_task="train")
    with pytest.raises(MissingDataError, match="token ids"):
        patterns(matrix_of_chains(modes((1.0,)).values))
