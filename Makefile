# Needs Python 3.11 or later as `python3` and a way to PyPI; everything else is installed in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint types imports wheel check bench bench-peers soak clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

run: $(VENV)/.installed ## install and serve on 127.0.0.1:8000, data in ./data
	$(BIN)/headwater serve --data data $(ARGS)

test: $(VENV)/.testing ## run the tests, on as many cores as there are, up to 4
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/.linting ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.linting ## strict types
	$(BIN)/mypy
	MYPYPATH=tests:tools $(BIN)/mypy --explicit-package-bases tests tools bench

imports: $(VENV)/.linting ## the layers import downward only
	$(BIN)/lint-imports

wheel: $(VENV)/.linting ## build the wheel and try its installed copy
	$(BIN)/python tools/check_wheel.py

check: lint types imports test wheel ## all of the above

bench: $(VENV)/.benching ## measure; prints figures with machine and versions
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/.benching ## measure beside Chroma, pgvector and LanceDB
	$(BIN)/python -m bench.peers $(ARGS)

soak: $(VENV)/.testing ## the slow tests: longer crashes, a million lines
	$(BIN)/python -m pytest tests -m soak $(ARGS)

clean: ## remove what was installed and built
	rm -rf $(VENV) bench/peers/.venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.testing: $(VENV)/.installed
	$(PIP) install --quiet --group test
	@touch $@

$(VENV)/.linting: $(VENV)/.testing
	$(PIP) install --quiet --group lint
	@touch $@

$(VENV)/.benching: $(VENV)/.testing
	$(PIP) install --quiet --group bench
	@touch $@
