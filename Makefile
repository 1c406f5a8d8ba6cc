# Every target sets up what it needs: a virtual environment in .venv, installed once and again when
# pyproject.toml changes. Only python3.11+, pip and make have to be there.

PYTHON ?= python3
COUNT ?= 300
BIN := .venv/bin
STAMP := .venv/.installed
LOWEST_PYTHON ?= $(shell command -v python3.11 || echo $(PYTHON))

.PHONY: demo test test-quick test-flower lint docs figures notebooks wheel lowest nightly mutants soak clean

demo: $(STAMP)  ## a real Flower simulation that waits for clean hours, and what it saved
	$(BIN)/lowcarb demo

test: lint  ## everything that CI checks
	$(MAKE) --jobs=2 test-quick test-flower

test-quick: $(STAMP)
	$(BIN)/pytest -n auto -m "not flower and not soak"

# Real Flower waits for processes to start and for holds to end, so it is run beside the others.
test-flower: $(STAMP)
	$(BIN)/pytest -m flower

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(STAMP)  ## run the notebooks again, and keep what they show
	$(BIN)/python notebooks/execute.py

wheel:  ## what would be published, in a clean environment of its own
	PYTHON=$(PYTHON) .ci/wheel

lowest:  ## the tests with the lowest versions that the package admits
	PYTHON=$(LOWEST_PYTHON) .ci/lowest

nightly:  ## the tests of flower/ with the newest pre-release of Flower
	PYTHON=$(PYTHON) .ci/nightly

figures: $(STAMP)  ## every number and picture of README and docs; DATA=folder with trace files for the real ones
	$(BIN)/python benchmarks/figures.py $(DATA)

soak: $(STAMP)  ## long property runs
	$(BIN)/pytest -m soak

# Cosmic Ray has an environment of its own: its requirements are not ours.
mutants:  ## the share of COUNT small faults that the tests of planning, accounts and decisions notice; hours
	test -x .venv-mutants/bin/python || $(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/pip install --quiet --disable-pip-version-check --editable '.[test]' 'cosmic-ray>=8.4'
	nice -n 15 .venv-mutants/bin/python .ci/mutants.py --count $(COUNT) --out mutants.jsonl

clean:  ## remove what the other targets made
	rm -rf .venv .venv-lowest .venv-nightly .venv-mutants mutants.jsonl build dist runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "python3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
