#!/usr/bin/env bash
# Test this plugin against both generations of TransformerLens, each in an environment of its own under .venvs/.
# What they need is installed with the constraints of the project for torch alone: each brings its own transformers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for generation in "tl3 transformer-lens>=3,<4" "tl4 transformer-lens>=4,<5"; do
    name="${generation%% *}" requirement="${generation#* }" venv=".venvs/${generation%% *}"
    if [ ! -e "$venv/.ready" ]; then
        "${PYTHON:-python3}" -m venv "$venv"
        "$venv/bin/pip" install --quiet torch==2.13.0 "$requirement" pytest
        "$venv/bin/pip" install --quiet -e . -e plugins/devinterp-transformerlens
        touch "$venv/.ready"
    fi
    echo "== $name: $("$venv/bin/pip" list 2>/dev/null | grep -i '^transformer-lens')"
    HF_HUB_OFFLINE=1 "$venv/bin/python" -m pytest -q -p no:cacheprovider --override-ini addopts= --noconftest \
        plugins/devinterp-transformerlens/tests "$@"
done
