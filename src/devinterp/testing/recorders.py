"""Conformance tests of recorders; subclass them for your own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.slt.sampling import sample
from devinterp.types import Recorder


class SmallModel(nn.Module):
    """A language model of a few hundred weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 11)

    def forward(self, ids: Tensor) -> Tensor:
        """Return next-token logits ``(batch, token, 11)``."""
        logits: Tensor = self.head(torch.tanh(self.mix(self.embed(ids))))
        return logits


#: Options of the runs of the suite.
_SHORT = {"num_chains": 2, "num_draws": 2, "num_init_loss_batches": 1, "chains": "sequential", "progress": False}


class RecorderTests:
    """Tests of a `Recorder`, run by pytest on a subclass that names it.

    For example::

        class TestMyRecorder(RecorderTests):
            recorder = devinterp_recorders()[0]
            settings = {"size": 3}

    Runs are of a small language model; override `model` and `dataset` for a recorder that needs others.
    """

    #: The recorder under test.
    recorder: ClassVar[Recorder]
    #: Settings that it is built with.
    settings: ClassVar[Mapping[str, Any]] = {}
    _usual: ClassVar[xr.DataTree]
    _used: ClassVar[nn.Module]
    #: Relative tolerance between chains one after the other and side by side, in units of the largest value of each variable.
    tolerance: ClassVar[float] = 1e-4

    def model(self) -> nn.Module:
        """Return a small model in eval mode, with the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SmallModel().eval()

    def dataset(self) -> Any:
        """Return the data set that the run samples on."""
        return torch.arange(96).reshape(16, 6) * 7 % 11

    def run(self, *, recorders: Any = "this one", model: nn.Module | None = None, **changes: Any) -> xr.DataTree:
        """Return a short run with the recorder, of two chains; takes the options of `devinterp.sample`."""
        if recorders == "this one":
            recorders = {"tested": {"recorder": self.recorder, **self.settings}}
        options: dict[str, Any] = {"lr": 1e-3, "n_beta": 10.0, "localization": 1.0, "batch_size": 4, **_SHORT}
        tree = sample(model or self.model(), self.dataset(), recorders=recorders, **{**options, **changes})
        assert isinstance(tree, xr.DataTree)
        return tree

    def usual_run(self) -> xr.DataTree:
        """Return the run that others are compared with, sampled once for all tests."""
        if "_usual" not in vars(type(self)):
            type(self)._used = self.model()
            type(self)._usual = self.run(model=self._used)
        return self._usual

    def recordings(self, tree: xr.DataTree) -> dict[str, np.ndarray]:
        """Return everything that the recorder stored, by name."""
        return {str(name): each.to_numpy() for name, each in tree["recordings/tested"].to_dataset().variables.items()}

    def test_documents_its_settings(self) -> None:
        """A user sees the docstring of `build`; every setting is a keyword with a default, and is described."""
        text = inspect.getdoc(self.recorder.build) or ""
        assert text, "`build` needs a docstring: it is what users read about the recorder"
        for setting in list(inspect.signature(self.recorder.build).parameters.values())[1:]:
            assert setting.kind is setting.KEYWORD_ONLY, f"`{setting.name}` must be keyword-only: users give it by name"
            assert setting.name != "recorder", "`recorder` names the recorder itself: call the setting something else"
            assert setting.name in text, f"`{setting.name}` is not described in the docstring"

    def test_records_at_every_draw_and_at_the_initial_weights(self) -> None:
        """Every variable has restriction, chain and draw before its own dims, and a value at the initial weights."""
        group = self.usual_run()["recordings/tested"].to_dataset()
        variables = [str(name) for name in group.data_vars if not str(name).startswith("init_")]
        assert variables, "nothing is recorded"
        for name in variables:
            assert group[name].dims[:3] == ("restriction", "chain", "draw")
            assert group[name].dims[3:] == group[f"init_{name}"].dims
            assert group[name].dtype == group[f"init_{name}"].dtype
            masked = np.isnan(group[f"init_{name}"])
            assert (np.isnan(group[name]) == masked).all(), f"`{name}` has NaN where it has none at the initial weights"

    def test_changes_nothing_else(self) -> None:
        """The run's other numbers are those of a run without the recorder, and the model is what it was."""
        with_it, without = self.usual_run(), self.run(recorders=None)
        before = self.model().state_dict()
        for name, tensor in self._used.state_dict().items():
            assert torch.equal(tensor, before[name]), f"the model's `{name}` was changed"
        for path in ("trace/loss", "metrics/virial"):
            np.testing.assert_array_equal(with_it[path], without[path], err_msg=f"recording changed `{path}`")

    def test_gives_the_same_again(self) -> None:
        """Two runs record the same, to the last bit: an interrupted run must go on to the same numbers."""
        _assert_same(self.recordings(self.run()), self.recordings(self.usual_run()))

    def test_side_by_side_and_one_after_the_other_agree(self) -> None:
        """Chains as one batched computation give the same to rounding, also under several weight restrictions."""
        try:
            together = self.run(chains="vectorized")
        except InvalidInputError:  # of the model: what is recorded then comes from one chain after the other
            return
        expected = self.recordings(self.usual_run())
        for name, values in self.recordings(together).items():
            _assert_close(values, expected[name], self.tolerance, name)

    def test_goes_on_where_a_store_ends(self, tmp_path: Path) -> None:
        """A run that is extended records what a longer one does, also with the recorder as another process gets it."""
        self.run(output_path=tmp_path / "run.zarr", num_draws=1)
        recorder, settings = cloudpickle.loads(cloudpickle.dumps((self.recorder, dict(self.settings))))
        recorders = {"tested": {"recorder": recorder, **settings}}
        longer = self.run(output_path=tmp_path / "run.zarr", recorders=recorders)
        _assert_same(self.recordings(longer), self.recordings(self.usual_run()))

    def test_can_be_added_to_a_store(self, tmp_path: Path) -> None:
        """A run that was sampled without the recorder is completed."""
        self.run(output_path=tmp_path / "run.zarr", recorders=None)
        completed = self.run(output_path=tmp_path / "run.zarr")
        _assert_same(self.recordings(completed), self.recordings(self.usual_run()))


def _assert_same(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def _assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float, name: str) -> None:
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected, err_msg=name)
        return
    scale = float(np.nanmax(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)
