"""Where the models of a study come from: state dicts, files, directories, revisions, and names with a pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from devinterp import study
from devinterp.errors import FailedRunsWarning, InvalidInputError, StudyError
from devinterp.studies import patterns
from devinterp.studies.axes import numbers_in, run_name
from support.small_models import SHORT, TinyModel, ids, make, run, same_numbers

STEPS = (0, 8, 64)
SETTINGS: dict[str, Any] = {**SHORT, "num_draws": 3}


def moved(step: int) -> TinyModel:
    model = make()
    with torch.no_grad():
        model.mix.weight.mul_(1 + step / 100)
    return model


def check(models: Any, **changes: Any) -> None:
    """Assert that a study of the moved models is that of the models themselves."""
    tree = study(models, ids(), **{**SETTINGS, **changes})
    assert list(tree.children) == [f"checkpoint={step}" for step in STEPS]
    for step in STEPS:
        same_numbers(tree[f"checkpoint={step}"].copy(), run(moved(step), num_draws=3))


def test_state_dicts() -> None:
    base = make().eval()
    weights = {step: moved(step).state_dict() for step in STEPS}
    check(weights, architecture=base)
    check(weights, architecture=lambda: TinyModel().eval())
    assert torch.equal(base.mix.weight, make().mix.weight)
    with pytest.raises(StudyError, match="a state dict does not fit `architecture`"):
        study(weights, ids(), architecture=nn.Linear(2, 2), **SETTINGS)


def test_files_of_weights(tmp_path: Path) -> None:
    for step, inside in zip(STEPS, (None, "model", "state_dict"), strict=True):
        weights = moved(step).state_dict()
        torch.save(weights if inside is None else {inside: weights, "step": step}, tmp_path / f"step-{step}.pt")
    check(f"{tmp_path}/step-*.pt", architecture=make())
    names = f"{tmp_path}/step-{{checkpoint}}.pt"
    tree = study(names, ids(), architecture=make(), over={"checkpoint": [8]}, **SETTINGS)
    assert tree.slt.llc()["checkpoint"].values.tolist() == [8]
    same_numbers(tree["checkpoint=8"].copy(), run(moved(8), num_draws=3))
    for models in (f"{tmp_path}/step-{{0,64}}.pt", {step: tmp_path / f"step-{step}.pt" for step in (0, 64)}):
        assert list(study(models, ids(), architecture=make(), **SETTINGS).children) == ["checkpoint=0", "checkpoint=64"]


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    for step in STEPS:
        save_file(moved(step).state_dict(), tmp_path / f"step-{step}.safetensors")
    check(f"{tmp_path}/step-*.safetensors", architecture=make())


def test_a_file_that_changed_is_no_stored_run(tmp_path: Path) -> None:
    path, store = tmp_path / "weights.pt", tmp_path / "study"
    torch.save(moved(0).state_dict(), path)
    study({0: path}, ids(), architecture=make(), output_path=store, **SETTINGS)
    torch.save(moved(8).state_dict(), path)
    with pytest.raises(OSError, match="weights: the store has"):
        study({0: path}, ids(), architecture=make(), output_path=store, **SETTINGS)


def test_files_that_are_none(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "none.pt")
    torch.save(moved(8).state_dict(), tmp_path / "some.pt")
    with pytest.warns(FailedRunsWarning, match=r"none.*holds no state dict"):
        study({"none": tmp_path / "none.pt", "some": tmp_path / "some.pt"}, ids(), architecture=make(), **SETTINGS)
    with pytest.raises(StudyError, match="holds weights alone: pass the model they belong to"):
        study({"some": tmp_path / "some.pt"}, ids(), **SETTINGS)
    with pytest.raises(InvalidInputError, match="no path fits"):
        study(f"{tmp_path}/step-*.pt", ids(), **SETTINGS)
    with pytest.raises(InvalidInputError, match=r"has \{step\}, and `over` does not say"):
        study(f"{tmp_path}/step-{{step}}.pt", ids(), **SETTINGS)


def test_directories_and_revisions_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(
        vocab_size=23, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    for step in STEPS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / f"step{step}")
    local = study(f"{tmp_path}/step*", ids(), **SETTINGS)
    assert list(local.children) == [f"checkpoint={step}" for step in STEPS]

    asked, load = [], transformers.AutoModelForCausalLM.from_pretrained

    def from_hub(name: str, *, revision: str, **options: Any) -> Any:
        asked.append((name, revision))
        return load(tmp_path / revision, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_hub)
    tree = study("someone/pythia@step{0,8,64}", ids(), **SETTINGS)
    assert asked == [("someone/pythia", f"step{step}") for step in STEPS]
    for name in local.children:
        same_numbers(tree[name].copy(), local[name].copy())


def test_patterns() -> None:
    assert patterns.expand("a") is None
    assert list(patterns.expand("x@step{0,1,2,4,...,512}") or ()) == ["0", *(str(2**n) for n in range(10))]
    assert patterns.numbers("0,1,2,4,...,143000")[-2:] == ["131072", "143000"]
    pythia = patterns.numbers("0,1,2,4,...,512,1000,2000,...,143000")
    assert len(pythia) == 154  # as many as Pythia has
    assert pythia[:13] == ["0", "1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1000", "2000"]
    assert patterns.numbers("0,1,2,...,5") == ["0", "1", "2", "3", "4", "5"]
    assert patterns.numbers("1,3,...,8") == ["1", "3", "5", "7", "8"]
    assert patterns.numbers("main,last") == ["main", "last"]
    for bad in ("1,...,8", "2,1,...,8", "1,2,...", "a,b,...,8", "1,1"):
        with pytest.raises(InvalidInputError, match="must"):
            patterns.numbers(bad)
    with pytest.raises(InvalidInputError, match="several lists"):
        patterns.expand("{1,2}/{3,4}")


def test_labels() -> None:
    assert numbers_in(["step0", "step512"]) == [0, 512]
    assert numbers_in(["checkpoint-5/model", "checkpoint-10/model"]) == [5, 10]
    assert numbers_in(["a1", "b1"]) == ["a1", "b1"]
    assert numbers_in(["01", "1"]) == ["01", "1"]
    assert numbers_in(["0.5", "1.5"]) == [0.5, 1.5]
    assert run_name({"checkpoint": 512, "lr": 1e-5}) == "checkpoint=512,lr=1e-05"
    assert run_name({}) == "run"
    odd = [run_name({"dataset": name}) for name in ("a/b", "a\\b", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 4
    assert all("/" not in name and len(name) < 200 for name in odd)
