# Needs Debian (or any Linux/macOS) with Python 3.11+ and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
QUANTIZED_TESTS := tests/models/test_quantized.py tests/models/test_quantized_uses.py tests/hub/test_quantized_lora.py tests/hub/test_quantize.py tests/hub/test_quantized_variants.py
# The versions that were tested; `make lock` writes them anew.
LOCK := requirements/locked.txt
# The build backend comes from the lock too.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint $(LOCK) --build-constraint $(LOCK)

.DEFAULT_GOAL := help
.PHONY: help venv install install-test install-dev demo docs test test-slow test-newest test-floor test-torchao lock reference conformance lint format types benchmarks clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The stamp files remember which extra is installed, so that a second `make` starts at once.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || (echo "On Debian: apt-get install python3-venv" >&2; exit 1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) --upgrade pip

$(VENV)/.installed: $(BIN)/python pyproject.toml $(LOCK)
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-docs

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

install: $(VENV)/.installed ## Install the package into .venv
install-test: $(VENV)/.installed-test
install-dev: $(VENV)/.installed-dev

demo: install ## Write a video, ask the bundled model three questions about it
	@$(BIN)/python examples/demo.py

# The second process that imports a file reads what the first one has compiled; images of containers turn that off.
test: export PYTHONDONTWRITEBYTECODE =
test: install-test ## Run the whole test suite on the locked versions
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow and not gpu and not hub" --cpu-durations 20

test-slow: install-test ## Run the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu and not hub"

test-newest: install-test ## Run the suite on the newest releases of everything, and report a lock that is older
	$(BIN)/python tools/newest_tests.py -n $(PYTEST_WORKERS)

test-floor: install-test ## Run the suite on the oldest supported packages (torch excepted)
	$(BIN)/python tools/floor_tests.py -n $(PYTEST_WORKERS)

# Apart from the environment, because transformers prints notices of torch where it finds torchao.
$(VENV)/.torchao: $(VENV)/.installed-test
	$(PIP_INSTALL) --no-deps --upgrade --target $@ torchao
	@touch $@

test-torchao: $(VENV)/.torchao ## Run the tests of quantized loading with torchao, too
	PYTHONPATH=$(CURDIR)/$(VENV)/.torchao $(BIN)/python -m pytest -n $(PYTEST_WORKERS) -k "torchao or a100-int8 or cpu-int8" $(QUANTIZED_TESTS)

lock: install-dev ## Write the newest releases into requirements/locked.txt, from which everything here installs
	$(BIN)/python tools/lock.py

reference: install ## Compute the reference tensors of the parity tests anew, from the equations of the papers
	PYTHONPATH=tools $(BIN)/python -m reference_tensors

conformance: install-dev ## Run transformers' own test mixins against the designs
	$(BIN)/python tests/conformance/run.py

lint: install-dev ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev ## Mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install-dev ## Check the types of the whole package
	$(BIN)/mypy

# The variable turns off an announcement of mkdocs-material about its successor.
docs: $(VENV)/.installed-docs ## Write the documentation as a site into site/ (python3 -m http.server -d site shows it)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

benchmarks: install ## Run the benchmarks into runs/benchmarks (goes on after a stop), and compare with the last results
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/compare.py runs/benchmarks

clean: ## Remove what was made, the environment too
	rm -rf $(VENV) .floor .conformance demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
