"""Pictures show the numbers that the analyses give, and refuse what they cannot draw."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from devinterp import errors
from devinterp.analyses.llc import compute_llc, loss_traces, token_llc
from devinterp.testing import synthetic_tree
from devinterp_plots import autocorrelation, bif, diagnose, llc, rank, susceptibilities, tokens, trace

OBSERVABLES = {"prose": (3, 12), "code": (2, 9)}


rank_counts = importlib.import_module("devinterp_plots.rank").rank_counts
autocorrelations = importlib.import_module("devinterp_plots.autocorrelation").autocorrelations
cell = importlib.import_module("devinterp_plots.susceptibilities").cell


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return synthetic_tree(num_burnin_steps=20, num_draws=60, observables=OBSERVABLES)


@pytest.fixture(scope="module")
def study() -> xr.DataTree:
    return synthetic_tree(num_restrictions=2, num_chains=3, num_draws=40, observables=OBSERVABLES)


def lines(ax, alpha=None):
    """Lines of data (not of reference), in the order of the chains."""
    return [line for line in ax.lines if len(line.get_xdata()) > 2 and line.get_alpha() == alpha]


# --- trace


def test_trace_shows_the_mean_minibatch_loss_of_every_chain(tree):
    top, _ = trace(tree).axes
    expected = tree["trace/loss"].mean(["batch", "position"]).isel(restriction=0)
    raw = lines(top, alpha=0.28)
    assert len(raw) == tree.sizes["chain"]
    for line, loss in zip(raw, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), loss, rtol=1e-5)


def test_the_running_llc_ends_at_the_llc(tree):
    _, bottom = trace(tree).axes
    ends = [line.get_ydata()[-1] for line in lines(bottom)]
    # n_beta times the resolution of float32 losses near 1, of which a small coefficient is a difference
    rounding = 20 * 2**-24
    np.testing.assert_allclose(ends, compute_llc(tree)["paired_llc_per_chain"], rtol=1e-6, atol=rounding)
    assert bottom.get_ylabel() == "paired LLC so far"
    _, bottom = trace(tree, burnin=50).axes
    ends = [line.get_ydata()[-1] for line in lines(bottom)]
    np.testing.assert_allclose(ends, compute_llc(tree, burnin=50)["paired_llc_per_chain"], rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("how", ["not stored", "not wanted"])
def test_the_running_llc_is_that_of_devinterp_2_without_losses_at_w0(how):
    tree = synthetic_tree(num_draws=40, row_losses=how == "not wanted", ragged=True)
    options = {"paired": False} if how == "not wanted" else {}
    top, bottom = trace(tree, **options).axes
    ends = [line.get_ydata()[-1] for line in lines(bottom)]
    np.testing.assert_allclose(ends, compute_llc(tree)["llc_per_chain"], rtol=1e-5)
    assert bottom.get_ylabel() == "LLC so far"
    (start,) = [line for line in top.lines if line.get_label() == "at the starting weights"]
    np.testing.assert_allclose(start.get_ydata(), tree["trace/init_loss_mean"].mean())


def test_weights_that_stay_are_drawn_at_zero_and_at_the_loss_there():
    """Padded text with rows of very different lengths and losses, on which means of positions would be far off."""
    rng = np.random.default_rng(0)
    for accumulated in (1, 3):
        tree = synthetic_tree(
            num_draws=30, scale=0.0, ragged=True, num_tokens=30, seed=int(rng.integers(99)),
            gradient_accumulation_steps=accumulated, batch_size=2,
        )  # fmt: skip
        top, bottom = trace(tree).axes
        (start,) = [line for line in top.lines if line.get_label() == "at the starting weights"]
        for line in lines(bottom):
            np.testing.assert_allclose(line.get_ydata(), 0, atol=1e-4)
        for line in (line for line in lines(top) if line.get_marker() != "X"):
            np.testing.assert_allclose(line.get_ydata(), start.get_ydata()[0], atol=1e-5)


def test_the_truth_of_padded_text_is_drawn():
    """The trace of w² has the known mean; L(w0) by positions instead of by minibatches would move it by tens."""
    tree = synthetic_tree(num_draws=2000, ragged=True, num_tokens=30, num_chains=2, batch_size=2, autocorrelation=0.0)
    _, bottom = trace(tree).axes
    truth = 20 * 2 * 6 * 0.1**2  # n_beta · 2 |w|², of six weights with standard deviation 0.1
    error = float(compute_llc(tree)["paired_llc_se"])
    ends = [line.get_ydata()[-1] for line in lines(bottom)]
    assert error < 0.2 * truth
    assert abs(np.mean(ends) - truth) < 4 * error
    by_position = 20 * float(tree["trace/loss"].mean() - tree["trace/init_loss"].mean())
    assert abs(by_position - truth) > 4 * error


def test_a_run_that_recorded_means_is_drawn_too():
    whole = synthetic_tree(num_draws=30, ragged=True)
    mean = whole["trace/loss"].mean(["batch", "position"])
    reduced = whole.copy()
    reduced["trace"] = xr.DataTree(whole["trace"].to_dataset().drop_vars("loss").assign(mean_loss=mean))
    assert len(lines(trace(reduced).axes[0], alpha=0.28)) == 4


def test_burnin_is_shaded_and_can_be_changed(tree):
    for burnin, width in ((None, 20), (35, 35)):
        top, bottom = trace(tree, burnin=burnin).axes
        for ax in (top, bottom):
            (shade,) = ax.patches
            assert shade.get_width() == width
    assert not trace(tree, burnin=0).axes[0].patches
    with pytest.raises(errors.InvalidInputError, match=r"`burnin` \(=80\) must leave some of the 80 steps"):
        trace(tree, burnin=80)


def test_a_diverged_chain_is_marked_where_it_ended_and_does_not_set_the_scale():
    tree = synthetic_tree(num_draws=60, diverged=[(0, 1)])
    loss = tree["trace/loss"].values
    loss[0, 1, 28:30] = 1e6  # as it explodes, before it is no number at all
    top, bottom = trace(tree).axes
    assert [text.get_text() for text in top.texts] == ["diverged"]
    (mark,) = [line for line in top.lines if line.get_marker() == "X"]
    assert mark.get_xdata()[0] == 29
    assert top.get_ylim()[1] < 100
    assert np.isnan(lines(bottom)[1].get_ydata()[-1])


def test_restrictions_are_drawn_side_by_side_or_one_is_chosen(study):
    assert [ax.get_title(loc="left") for ax in trace(study).axes[:2]] == ["full", "part1"]
    assert len(trace(study, restriction="part1").axes) == 2
    with pytest.raises(errors.InvalidInputError, match="'part7' is not one of 'full', 'part1'"):
        trace(study, restriction="part7")
    many = synthetic_tree(num_restrictions=5, num_draws=5)
    with pytest.raises(errors.InvalidInputError, match="restriction: choose one of 'full', 'part1'"):
        trace(many)


def test_trace_draws_on_axes_of_the_caller(tree):
    figure = Figure()
    axes = figure.subplots(2)
    assert trace(tree, axes=axes) is figure
    assert all(ax.lines for ax in axes)
    with pytest.raises(errors.InvalidInputError, match="must be two, for the loss and for the LLC; got 1"):
        trace(tree, axes=axes[:1])


def test_one_loss_per_sample_is_drawn_too(tree):
    plain = tree.copy()
    plain["trace"] = xr.DataTree(tree["trace"].to_dataset().mean("position"))
    assert len(lines(trace(plain).axes[0], alpha=0.28)) == 4


def test_several_runs_are_refused_with_their_paths(tree):
    both = xr.DataTree.from_dict({"a": tree.copy(), "b": tree.copy()})
    for draw in (trace, llc, tokens):
        with pytest.raises(
            errors.InvalidInputError, match=r"this tree holds 2 \('a', 'b'\): choose one, as in tree\[\"a\"\]"
        ):
            draw(both)


# --- llc


def test_llc_shows_estimate_error_and_chains_of_every_restriction_and_observable(study):
    result = compute_llc(study)
    (ax,) = llc(study).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["full", "part1"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "paired",
        "minibatches",
        *result["observable"].values,
    ]
    large = [bar.lines[0].get_xdata()[0] for bar in ax.containers]
    expected = [
        value
        for r in range(2)
        for value in (
            result["paired_llc_mean"][r],
            result["llc_mean"][r],
            *result["observable_llc_mean"].isel(restriction=r),
        )
    ]
    np.testing.assert_allclose(large, expected)
    halves = [np.ptp(bar.lines[2][0].get_segments()[0][:, 0]) / 2 for bar in ax.containers]
    np.testing.assert_allclose(halves[0], result["paired_llc_se"][0])
    np.testing.assert_allclose(halves[1], result["llc_se"][0])
    np.testing.assert_allclose(halves[2], result["observable_llc_se"].isel(restriction=0, observable=0))
    small = [line for line in ax.lines if line.get_alpha() == 0.35]
    np.testing.assert_allclose(small[0].get_xdata(), result["paired_llc_per_chain"][0])
    np.testing.assert_allclose(small[1].get_xdata(), result["llc_per_chain"][0])


def test_one_restriction_labels_its_rows_with_the_observables(tree):
    (ax,) = llc(tree).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "paired",
        "minibatches",
        *compute_llc(tree)["observable"].values,
    ]
    assert ax.get_legend() is None


def test_llc_without_observables():
    (ax,) = llc(synthetic_tree(num_draws=10, observables={})).axes
    assert len(ax.containers) == 2
    (ax,) = llc(synthetic_tree(num_draws=10, observables={}, row_losses=False)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["minibatches"]


def test_an_observable_may_be_called_like_another_row():
    tree = synthetic_tree(num_draws=10, observables={"paired": (2, 5)})
    (ax,) = llc(tree).axes
    result = compute_llc(tree)
    expected = [result["paired_llc_mean"], result["llc_mean"], result["observable_llc_mean"][0]]
    np.testing.assert_allclose([bar.lines[0].get_xdata()[0] for bar in ax.containers], expected)


def test_broken_chains_are_refused_unless_told():
    broken = synthetic_tree(num_draws=20, diverged=[(0, 3)])
    with pytest.raises(errors.BrokenChainsError, match="restriction 'full' chain 3: diverged"):
        llc(broken)
    (ax,) = llc(broken, chains="finished").axes
    assert len(ax.lines[0].get_xdata()) == 3


# --- tokens


def boxes(figure) -> np.ndarray:
    (collection,) = [c for c in figure.axes[0].collections if isinstance(c, PatchCollection)]
    return collection.get_facecolors()


def test_tokens_are_coloured_by_their_llc_and_the_first_is_grey(tree):
    strings = [f" t{i}" for i in range(12)]
    figure = tokens(tree, observable="prose", sequence=1, tokenizer=strings)
    expected = token_llc(tree, observable="prose")["llc"].isel(sequence=1).values
    faces = boxes(figure)
    assert len(faces) == 12
    np.testing.assert_allclose(faces[0], to_rgba("0.91"), atol=1e-6)
    redness = faces[1:, 0] - faces[1:, 2]
    assert (np.sign(redness[np.abs(expected) > 0.1]) == np.sign(expected[np.abs(expected) > 0.1])).all()
    inside = np.abs(expected) < np.quantile(np.abs(expected), 0.9)
    order = np.argsort(expected[inside])
    assert (np.diff(redness[inside][order]) >= -0.02).all()
    assert [text.get_text() for text in figure.axes[0].texts] == strings
    assert figure.axes[0].get_title(loc="left").startswith("prose, sequence 1: mean LLC per token")


def test_white_means_zero(tree):
    flat = tree.copy()
    flat["observables/prose/loss"] = xr.zeros_like(tree["observables/prose/loss"]) + tree["observables/prose/init_loss"]
    faces = boxes(tokens(flat, observable="prose", limit=1.0))
    np.testing.assert_allclose(faces[1:, :3], to_rgba("#f7f6f6")[:3] * np.ones((11, 3)), atol=0.01)


def test_without_a_tokenizer_the_ids_are_shown(tree):
    ids = tree["observables/code/token_ids"].values[1]
    figure = tokens(tree, observable="code", sequence=1)
    assert [text.get_text() for text in figure.axes[0].texts] == [f" {token}" for token in ids]


class ByteTokenizer:
    """Token id = byte; several tokens make one character."""

    def decode(self, token_ids):
        return bytes(token_ids).decode("utf-8", errors="replace")


def test_a_tokenizer_gives_the_text(tree):
    data = tree.copy()
    text = "aé b\n日 %_^$".encode()[:12]
    data["observables/prose/token_ids"] = tree["observables/prose/token_ids"].copy(
        data=np.broadcast_to(np.frombuffer(text, np.uint8).astype(np.int64), (3, 12))
    )
    shown = [t.get_text() for t in tokens(data, observable="prose", tokenizer=ByteTokenizer()).axes[0].texts]
    assert "é" in shown
    assert "⏎" in shown
    assert "□" in shown  # the font that comes with matplotlib has no 日; a box, not a warning for each picture


def test_refusals_of_tokens_say_what_to_do(tree, study):
    with pytest.raises(errors.InvalidInputError, match="observable: choose one of 'prose', 'code'"):
        tokens(tree)
    with pytest.raises(errors.InvalidInputError, match="restriction: choose one of 'full', 'part1'"):
        tokens(study, observable="code")
    with pytest.raises(errors.InvalidInputError, match=r"`sequence` \(=3\) must be 0 to 2"):
        tokens(tree, observable="prose", sequence=3)
    with pytest.raises(errors.InvalidInputError, match="holds 2 strings; the sequence has 12 tokens"):
        tokens(tree, observable="prose", tokenizer=["a", "b"])
    with pytest.raises(errors.InvalidInputError, match=r"`limit` \(=0\) must be positive"):
        tokens(tree, observable="prose", limit=0)


def test_a_restriction_can_be_chosen(study):
    faces = [boxes(tokens(study, observable="code", restriction=name, limit=5.0)) for name in ("full", "part1")]
    assert not np.allclose(*faces)
    figure = tokens(study, observable="code", restriction="part1")
    assert "restriction 'part1'" in figure.axes[0].get_title(loc="left")


def test_text_shrinks_to_fit_given_axes():
    tree = synthetic_tree(num_draws=5, observables={"prose": (1, 200)})
    sizes = []
    for height in (8.0, 2.0):
        figure = Figure(figsize=(6, height))
        ax = figure.subplots()
        assert tokens(tree, ax=ax) is figure
        sizes.append(ax.texts[0].get_fontsize())
        bottom = max(text.get_position()[1] for text in ax.texts)
        assert bottom < ax.get_ylim()[0]
    assert sizes[1] < sizes[0]


def test_tokens_can_show_susceptibilities_and_influences(study):
    chi = study.slt.susceptibilities("prose", include_sampling_task=True)["labelled"]["susceptibility"]
    expected = chi.sel(restriction="part1", observable="code").isel(sequence=1)[:8].values
    figure = tokens(
        study, observable="code", sequence=1, of="susceptibility", sampling_task="prose", restriction="part1", limit=1.0
    )
    assert figure.axes[0].get_title(loc="left").endswith(f"mean susceptibility {expected.mean():.3g}")
    reds = boxes(
        tokens(study, observable="code", sequence=1, of="susceptibility", sampling_task="prose", restriction="part1")
    )
    assert (np.diff((reds[1:, 0] - reds[1:, 2])[np.argsort(expected)]) >= -0.02).all()

    pairs = study.isel(restriction=[0]).slt.bif(queries={"code": [1]}, candidates={"code": [1]})["influences"]
    figure = tokens(study, observable="code", sequence=1, of="influence", query=3, restriction=["full", "part1"])
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.texts and ax.get_title(loc="left")] == [
        "code, sequence 1, restriction 'full': influence of token 3",
        "code, sequence 1, restriction 'part1': influence of token 3",
    ]
    reds = boxes(tokens(study, observable="code", sequence=1, of="influence", query=3, restriction="full", limit=1.0))
    order = np.argsort(pairs.values[0, 0, 2])
    assert (np.diff((reds[1:, 0] - reds[1:, 2])[order]) >= -0.02).all()
    with pytest.raises(errors.InvalidInputError, match=r"`query` \(=0\) must be 1 to 8"):
        tokens(study, observable="code", of="influence", query=0, restriction="full")
    with pytest.raises(errors.InvalidInputError, match="`of` \\(='loss'\\) must be one of"):
        tokens(study, observable="code", of="loss", restriction="full")
    with pytest.raises(errors.InvalidInputError, match="`ax` has room for one restriction"):
        tokens(study, observable="code", restriction=["full", "part1"], ax=Figure().subplots())


# --- rank, autocorrelation


def test_ranks_of_chains_that_agree_are_uniform_and_of_one_apart_are_not():
    rng = np.random.default_rng(0)
    agreeing = rng.normal(size=(4, 500))
    counts = rank_counts(agreeing, 10)
    assert counts.sum() == agreeing.size
    assert counts.sum(1).tolist() == [500] * 4
    assert counts.sum(0).tolist() == [200] * 10
    # Each count is hypergeometric with mean 50 and a standard deviation below that of the binomial.
    assert (abs(counts - 50) < 5 * np.sqrt(50 * 0.9)).all()
    apart = agreeing + np.array([[0], [0], [0], [9]])
    assert rank_counts(apart, 4)[3].tolist() == [0, 0, 0, 500]
    assert rank_counts(np.zeros((2, 8)), 4).sum(1).tolist() == [8, 8]  # equal values share their ranks


def test_rank_draws_a_bar_for_each_count(tree):
    (ax,) = rank(tree, num_bins=8).axes
    series = loss_traces(tree)["rise"].isel(restriction=0).values[:, 20:]
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(np.reshape(heights, (4, 8)), rank_counts(series, 8))
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"chain {c}" for c in range(4)]
    with pytest.raises(errors.InvalidInputError, match=r"`num_bins` \(=1\)"):
        rank(tree, num_bins=1)


def test_the_autocorrelation_of_a_known_process_is_found():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 40_000))
    values = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        values[:, t] = 0.8 * values[:, t - 1] + noise[:, t]
    # Bartlett: the variance of an estimate is below the sum of squared correlations over the number of steps.
    error = np.sqrt((1 + 0.64) / (1 - 0.64) / noise.shape[1])
    assert (abs(autocorrelations(values, 12) - 0.8 ** np.arange(13)) < 5 * error).all()
    direct = values[0] - values[0].mean()
    assert autocorrelations(values, 3)[0, 3] == pytest.approx((direct[:-3] * direct[3:]).sum() / (direct**2).sum())
    assert np.isnan(autocorrelations(np.ones((1, 9)), 2)).all()


def test_autocorrelation_draws_every_chain_and_names_those_it_leaves_out():
    broken = synthetic_tree(num_draws=40, diverged=[(0, 1)])
    (ax,) = autocorrelation(broken, max_lag=7).axes
    series = loss_traces(broken)["rise"].isel(restriction=0).values[[0, 2, 3]]
    drawn = [line.get_ydata() for line in lines(ax)]
    np.testing.assert_allclose(drawn, autocorrelations(series, 7))
    assert "without chains 1: not finite" in ax.get_title(loc="left")
    with pytest.raises(errors.InvalidInputError, match=r"`max_lag` \(=40\) must be 1 to 39"):
        autocorrelation(broken, max_lag=40)
    with pytest.raises(errors.InvalidInputError, match="no chain of restriction 'full' is finite"):
        autocorrelation(synthetic_tree(num_chains=1, num_draws=40, diverged=[(0, 0)]))


# --- heat maps


def cells(figure) -> np.ndarray:
    (image,) = figure.axes[0].images
    return np.ma.filled(image.get_array(), np.nan)


def test_bif_shows_the_influences_between_sequences(study):
    figure = bif(study, restriction="part1")
    one = study.isel(restriction=[1]).slt.bif(method="sequence")
    np.testing.assert_allclose(cells(figure), one["influences"], rtol=1e-6)
    labels = [f"{o} {s}" for o, s in zip(one["observable_1"].values, one["sequence_1"].values, strict=True)]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == labels
    edges = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_ydata()[0] == line.get_ydata()[1]]
    assert edges == [1.5]  # two sequences of code, then prose
    assert len(cells(bif(study, restriction="full", loss_keys={"prose": [0, 2]}))) == 2
    with pytest.raises(errors.InvalidInputError, match="restriction: choose one of"):
        bif(study)


def test_susceptibilities_shows_the_mean_of_each_data_set(study):
    figure = susceptibilities(study, sampling_task="prose")
    expected = study.slt.susceptibilities("prose")["labelled"]["susceptibility"].mean(["sequence", "position"])
    power = 10.0 ** np.floor(np.log10(np.abs(expected.values).max()))
    np.testing.assert_allclose(cells(figure), expected.values / power, rtol=1e-6, atol=1e-9)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["full", "part1"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["code"]
    assert len(ax.texts) == 2
    assert cell(1.234, 0.1) == "1.2 ± 0.1"
    assert cell(-0.15, 0.1) == "(-0.1 ± 0.1)"
    assert cell(np.nan, 1.0) == ""


# --- diagnose, verdicts


def test_the_page_of_diagnose_has_the_verdict_and_its_findings():
    broken = synthetic_tree(num_restrictions=2, num_draws=30, diverged=[(0, 1)], observables=OBSERVABLES)
    figure = diagnose(broken, restriction="part1")
    result = broken.slt.diagnose()
    top = figure.axes[0]
    assert top.get_title(loc="left") == f"verdict: {result.attrs['verdict']}"
    shown = [text.get_text() for text in top.texts]
    for text, code in zip(shown[:3], result["code"].values[:3], strict=True):
        assert code in text
    assert len(figure.axes) == 6
    whole = Figure(figsize=(10, 10))
    assert diagnose(broken, figure=whole) is whole


def test_trace_says_what_the_coefficients_say(tree):
    attrs = compute_llc(tree, chains="finished").attrs
    title = trace(tree).axes[0].get_title(loc="right")
    assert title.startswith(f"verdict: {attrs['verdict']}")
    assert all(code in title for code in attrs["findings"])
    assert trace(tree, verdict=False).axes[0].get_title(loc="right") == ""
    broken = synthetic_tree(num_draws=20, diverged=[(0, 3)])
    assert trace(broken).axes[0].get_title(loc="right").endswith("chains 3 left out")
    assert "no chain has finished" in trace(synthetic_tree(num_chains=1, num_draws=20, diverged=[(0, 0)])).axes[
        0
    ].get_title(loc="right")


# --- all


ALL = {
    "trace": {},
    "llc": {},
    "rank": {"restriction": "full"},
    "autocorrelation": {"restriction": "full"},
    "diagnose": {},
    "bif": {"restriction": "full"},
    "susceptibilities": {"sampling_task": "prose"},
    "tokens": {"observable": "prose", "restriction": "full"},
}


@pytest.mark.parametrize("name", ALL)
def test_pictures_are_methods_of_the_tree_and_can_be_saved(name, study, tmp_path):
    figure = getattr(study.slt.plot, name)(**ALL[name])
    figure.savefig(tmp_path / "picture.png", dpi=60)
    assert (tmp_path / "picture.png").stat().st_size > 3_000
    if name in ("trace", "bif"):  # curves, and an image in it
        figure.savefig(tmp_path / "picture.svg")
        assert (tmp_path / "picture.svg").read_text().endswith("</svg>\n")
    parameters = list(inspect.signature(getattr(study.slt.plot, name)).parameters.values())
    assert {each.kind for each in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters[-1].name == "dark"
    assert "dark : bool" in getattr(study.slt.plot, name).__doc__


@pytest.mark.parametrize("name", ALL)
def test_in_the_dark_text_is_light_and_the_page_dark(name, study):
    dark = getattr(study.slt.plot, name)(**ALL[name], dark=True)
    assert to_hex(dark.get_facecolor()) == "#1b1d21"
    for text in (each for each in dark.findobj(Text) if each.get_text().strip() and each.get_visible()):
        assert np.mean(to_rgba(text.get_color())[:3]) > 0.4, text.get_text()
    # The next one is light again, also after one that failed.
    with pytest.raises(errors.InvalidInputError):
        rank(study, restriction="part7", dark=True)
    assert to_hex(llc(study).get_facecolor()) == "#ffffff"


def test_names_that_look_like_mathematics_are_drawn_as_they_are():
    tree = synthetic_tree(
        num_restrictions=2,
        num_chains=2,
        num_draws=12,
        observables={"$x_$ \u202e日": (2, 6), "a" * 150: (2, 6), "$": (1, 5)},
    )
    tree.dataset = tree.to_dataset(inherit=False).assign_coords(
        restriction=np.array(["full", "$\\frac{"], dtype=object)
    )
    options = ALL | {"tokens": {"observable": "$", "restriction": "full"}, "susceptibilities": {"sampling_task": "$"}}
    for name in ("llc", "rank", "bif", "tokens", "diagnose"):
        getattr(tree.slt.plot, name)(**options[name])._repr_png_()


def test_lazy_trees_give_the_same_numbers(study):
    lazy = study.chunk({"draw": 7, "step": 11})
    for draw in (bif, susceptibilities):
        options = ALL[draw.__name__]
        np.testing.assert_allclose(cells(draw(lazy, **options)), cells(draw(study, **options)), rtol=1e-6, atol=1e-9)
    of_lazy, of_loaded = (
        [p.get_height() for p in rank(each, restriction="full").axes[0].patches] for each in (lazy, study)
    )
    assert of_lazy == of_loaded


def test_lazy_trees_give_the_same_pictures(tree):
    lazy = tree.chunk({"draw": 7, "step": 11})
    for draw, options in ((trace, {"verdict": False}), (llc, {}), (tokens, {"observable": "prose"})):
        assert draw(lazy, **options)._repr_png_() == draw(tree, **options)._repr_png_()


def test_listing_costs_no_matplotlib_and_drawing_no_pyplot():
    code = """
import sys
import devinterp_plots
assert "matplotlib" not in sys.modules, "imported for listing"
from devinterp.testing import synthetic_tree
tree = synthetic_tree(num_draws=5)
devinterp_plots.trace(tree); devinterp_plots.llc(tree); devinterp_plots.tokens(tree, observable="code")._repr_png_()
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps figures alive and needs a display"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent, timeout=120)
