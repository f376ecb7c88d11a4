"""The picture of a calibration: every setting that was considered is in its cell, with the criterion that failed."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from matplotlib.patches import Rectangle

import devinterp
from devinterp import cli
from devinterp.calibration.recommendation import Recommendation
from devinterp.calibration.result import Calibration, Row
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from devinterp_plots import calibration as draw
from support.study_trees import study_tree

ROW = Row("baoab", 0.01, 30.0, 5.0, 16, 0.5, 0.0, 10.0, "recommended", num_gradients=100)
ROWS = [
    replace(ROW, n_beta=10.0, outcome="drift", value=3.214, limit=2.0, message="it drifts", restriction="l0h1"),
    replace(ROW, n_beta=10.0, lr=0.005, outcome="compared"),
    ROW,
    replace(ROW, localization=50.0, outcome="prior_dominated", value=1.87, limit=0.9, checkpoint="step512"),
    replace(ROW, kernel="sgld", outcome="step_halving"),
]


def made(rows, recommendation=None) -> Calibration:
    return Calibration({}, {}, [], rows, recommendation, 100)


def texts(ax):
    return {tuple(np.round(each.get_position(), 2)): each.get_text() for each in ax.texts}


def test_every_setting_is_in_its_cell_with_what_failed():
    settings = {
        "kernel": "baoab",
        "options": {},
        "lr": 0.01,
        "n_beta": 30.0,
        "localization": 5.0,
        "predicted_error": 0.1,
        "match_sampling_input_ids_across_chains": True,
    }
    recommendation = Recommendation(**{**dict.fromkeys(Recommendation.__dataclass_fields__, 16), **settings})
    figure = draw(made(ROWS, recommendation))
    first, second = figure.axes
    assert first.get_title("left") == "baoab, minibatches of 16"
    assert first.get_title("right") == "recommended: framed"
    assert [each.get_text() for each in first.get_xticklabels()] == ["10", "30"]
    assert [each.get_text() for each in first.get_yticklabels()] == ["50", "5"]
    cells = texts(first)
    assert len(cells) == 3  # one combination was not considered
    drift, chosen, prior = cells[-0.44, 1], cells[0.56, 1], cells[0.56, 0]
    assert drift.splitlines() == ["ε 0.01: drift l0h1", "   3.21, limit 2", "ε 0.005: compared"]
    assert chosen == "ε 0.01: recommended"
    assert prior.splitlines()[0].startswith("ε 0.01: prior_dominated")
    assert prior.splitlines()[1] == "   1.87, limit 0.9"
    assert list(texts(second).values()) == ["ε 0.01: step_halving"]
    framed = [each for each in first.patches if isinstance(each, Rectangle) and each.get_linewidth() > 2]
    assert [(round(each.get_x() + 0.48), round(each.get_y() + 0.47)) for each in framed] == [(1, 1)]
    faces = {each.get_facecolor() for each in first.patches if each.get_zorder() == 1}
    assert len(faces) == 2  # cells in which something passed, and those in which nothing did


def test_a_refusal_and_a_dry_run_say_so():
    assert draw(made(ROWS[:1])).axes[0].get_title("right") == "refused: no setting passed"
    dry = draw(made([replace(ROW, outcome="to be run")]), dark=True)
    assert dry.axes[0].get_title("right") == "a dry run: nothing was sampled"


def test_many_steps_of_a_cell_are_counted():
    rows = [replace(ROW, lr=0.001 * n, outcome="hot", value=2.0, limit=1.1) for n in range(1, 9)]
    (text,) = texts(draw(made(rows)).axes[0]).values()
    assert text.splitlines()[-1] == "   and 3 more"


def test_names_are_drawn_as_they_are():
    row = replace(ROW, outcome="drift", value=1.0, limit=0.5, restriction="$\\frac$\u202e")
    figure = draw(made([row]))
    figure.savefig(io.BytesIO(), format="png")
    (text,) = texts(figure.axes[0]).values()
    assert "\u202e" not in text


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(MissingDataError, match="needs the tree of a calibration's store"):
        draw(synthetic_tree(num_draws=4))
    with pytest.raises(MissingDataError, match="considered no setting"):
        draw(made([]))
    tree = xr.DataTree()
    tree.attrs["calibration"] = {"judged": {}}
    with pytest.raises(MissingDataError, match="this one was interrupted"):
        draw(tree)
    with pytest.raises(InvalidInputError, match="has 1 and 13"):
        draw(made([replace(ROW, n_beta=float(n)) for n in range(1, 14)]))
    with pytest.raises(InvalidInputError, match="`axes` must be 2, one for each grid; got 1"):
        draw(made(ROWS), axes=draw(made(ROWS[:1])).axes)


def test_it_is_a_picture_of_a_tree_even_of_one_run():
    tree = study_tree([{"lr": 0.01}], num_draws=4)
    tree.attrs["calibration"] = {"result": made(ROWS[:1]).to_json()}
    figure = tree.slt.plot.calibration(dark=True)
    assert list(texts(figure.axes[0]).values()) == ["ε 0.01: drift l0h1\n   3.21, limit 2"]


@pytest.mark.slow
def test_the_store_of_a_calibration_is_drawn(tmp_path, capsys):
    import torch

    from devinterp.errors import CalibrationRefused

    def loss(model, batch):
        return 0.5 * (torch.tensor([1.0, 0.5, 0.25, 0.6]) * model.weights**2).sum() + 0 * batch[0]

    class Weights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.zeros(4))

    path = tmp_path / "calibration.zarr"
    with contextlib.suppress(CalibrationRefused):
        devinterp.calibrate(
            Weights(), (torch.zeros(16),), loss_fn=loss, n_beta=100.0, localization=5.0, batch_size=16, error=0.3,
            output_path=path, progress=False,
        )  # fmt: skip
    rows = Calibration.open(path).rows
    figure = devinterp.open(path).slt.plot.calibration()
    written = "\n".join(text for ax in figure.axes for text in texts(ax).values())
    for row in rows:
        assert f"ε {row.lr:.3g}: {row.outcome}" in written
    output = tmp_path / "calibration.svg"
    assert cli.run(["plot", "calibration", str(path), "-o", str(output)]) == 0
    assert output.read_text().startswith("<?xml")
