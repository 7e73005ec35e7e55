# Each target creates .venv and installs what it needs; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
SERVING_BIN := .venv-serving/bin
CODE := contracts trainer export report serving snapensemble tests benchmarks
INSTALL := pip install --quiet --constraint constraints.txt
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-serving check format lint types imports bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/installed ## create .venv and install everything for development

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) --editable '.[train,serving,dev]'
	@touch $@

.venv-serving/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-serving
	$(SERVING_BIN)/$(INSTALL) --editable '.[serving,test]'
	@touch $@

demo: .venv/installed ## train, export, serve and ask, on embedded data (ARGS=--once: then stop)
	$(BIN)/snapensemble demo $(ARGS)

test: .venv/installed ## run the tests
	$(BIN)/pytest $(ARGS)

test-serving: .venv-serving/installed ## run the serving tests where torch is not installed
	$(SERVING_BIN)/pytest tests/contracts tests/serving --override-ini=cache_dir=.venv-serving/cache

check: lint types imports test test-serving ## all that CI runs: format, lint, types, imports, tests

lint: .venv/installed ## check format and style
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: .venv/installed ## check types (strict mypy)
	$(BIN)/mypy

imports: .venv/installed ## check which package may import which
	$(BIN)/lint-imports

format: .venv/installed ## format the code and mend what can be mended
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: .venv/installed ## measure on the embedded data (writes benchmarks/results/)
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.digits_seeds

clean: ## remove what the targets made
	rm -rf .venv .venv-serving .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
