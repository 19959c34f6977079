# Needs git, make and Python >= 3.10; everything else is installed into .venv. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PEP 517 builds on every version of pip; prompts have nobody to answer them.
PIP := PIP_USE_PEP517=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
# compiled by the installation, where there is a compiler
SOURCES_C := $(wildcard ocsolver/*/*.[ch])

OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
export MPLBACKEND := Agg
# processes that share the tests
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow coverage check docs format clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(DEV)  ## create .venv and install everything that the development needs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'ocsolver needs Python >= 3.10; choose one with: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo 'This Python cannot make virtual environments: its module "ensurepip" or "venv" is missing.' >&2; \
	       echo 'On Debian and Ubuntu install the package python3-venv, or choose another: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An order-only prerequisite: the interpreter is a link whose date says nothing.
$(CORE): setup.py setup.cfg constraints.txt $(SOURCES_C) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): setup.py setup.cfg constraints.txt $(SOURCES_C) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(CORE) $@

demo: $(CORE)  ## solve one problem and show the result (core dependencies only)
	$(BIN)/python scripts/demo.py

test: $(DEV)  ## run the tests, without the slow ones
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(DEV)  ## run the slow tests
	$(BIN)/python -m pytest -m slow

coverage: $(DEV)  ## run the tests and report the lines they miss
	$(BIN)/python -m pytest --cov

check: $(DEV)  ## everything but the tests: style, types, imports, docstrings, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_docstrings.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

docs: $(DEV)  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

format: $(DEV)  ## let ruff repair style and layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built, and .venv stays
	rm -rf build dist out docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
