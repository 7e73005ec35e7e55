# Each target creates .venv and installs what it needs; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
SERVING_BIN := .venv-serving/bin
CODE := contracts trainer export report serving snapensemble tests benchmarks docker
# Only what is imported gets compiled, once: all of torch would take a minute more.
INSTALL := pip install --quiet --no-compile --constraint constraints.txt
# How many processes share the tests; `make test PROCESSES=0 ARGS=--pdb` runs them in one.
PROCESSES ?= 2
SHARED := --numprocesses $(PROCESSES) --dist worksteal
# Tests that may take longer: how many seconds each, and when its process is ended if it cannot end.
PATIENT := --timeout 900 --override-ini faulthandler_timeout=960
# The tests start this code hundreds of times: what is compiled is kept.
unexport PYTHONDONTWRITEBYTECODE
ENGINE ?= docker
IMAGE ?= snapensemble-serving
TRAINER_IMAGE ?= snapensemble-trainer
# `host` where containers of the engine's own network reach no package index.
BUILD_NETWORK ?= default
BUILD = $(ENGINE) build --network=$(BUILD_NETWORK) $(BUILD_ARGS) \
	--build-arg VERSION=$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	--build-arg COMMIT=$(shell git describe --always --abbrev=40 --match= --dirty 2>/dev/null || echo unknown) \
	--build-arg CREATED=$(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-serving check format lint types imports bench clean image image-trainer \
	conformance test-once test-slow test-container test-browser screenshots test-gpu test-ray test-ray-serve check-slow \
	kubernetes audit package

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
	$(BIN)/pytest $(SHARED) $(ARGS)

test-serving: .venv-serving/installed ## run the serving tests where torch is not installed
	$(SERVING_BIN)/pytest $(SHARED) tests/contracts tests/serving --override-ini=cache_dir=.venv-serving/cache

.venv-conformance/installed: tests/conformance/requirements.txt
	$(PYTHON) -m venv .venv-conformance
	.venv-conformance/bin/pip install --quiet --requirement $<
	@touch $@

conformance: .venv/installed .venv-conformance/installed ## ask a server by other people's clients
	$(BIN)/pytest tests/conformance $(ARGS)

test-ray-serve: .venv-ray-serve/installed ## serve behind Ray Serve, on a cluster of this machine
	PYTHONPATH=docker/ray .venv-ray-serve/bin/python -m pytest tests/ray_serve -W ignore \
	  --override-ini=cache_dir=.venv-ray-serve/cache $(ARGS)

.venv-ray-serve/installed: pyproject.toml constraints.txt docker/ray/requirements.txt
	$(PYTHON) -m venv .venv-ray-serve
	.venv-ray-serve/bin/$(INSTALL) --editable '.[serving,test]' --requirement docker/ray/requirements.txt
	@touch $@

test-gpu: .venv/installed ## run the tests that need a GPU
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(BIN)/pytest tests/trainer/test_cuda.py $(ARGS)

check-slow: check test-slow test-ray test-ray-serve ## and what takes minutes: a cluster of two nodes, one of them killed

check: lint types imports kubernetes test-once ## all that CI runs: format, lint, types, imports, tests

# Those of serving where torch is not installed, and here what needs more than is installed there.
test-once: .venv/installed test-serving ## run each quick test once, in the environment that shows most
	$(BIN)/pytest $(SHARED) tests/contracts tests/serving -m extra
	$(BIN)/pytest $(SHARED) --ignore tests/contracts --ignore tests/serving -m "not slow"

test-slow: .venv/installed ## run the tests that take long, or repeat quick ones for other networks
	$(BIN)/pytest $(SHARED) -m slow $(ARGS)

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
	$(BIN)/python -m benchmarks.training.budgets --digits --budgets 4500 --seeds 10 --work runs/budgets-digits --name budgets-digits

image: ## build the serving image, and list what is in it under dist/
	$(BUILD) --file docker/serving.Dockerfile --tag $(IMAGE) .
	$(BUILD) --file docker/serving.Dockerfile --target inventory --output dist .

image-trainer: ## build the image that trains, exports and evaluates
	$(BUILD) --file docker/trainer.Dockerfile --tag $(TRAINER_IMAGE) .

test-container: .venv/installed ## build the images, run them hardened and load them; needs a container engine
	@$(ENGINE) version >/dev/null 2>&1 || { echo "make test-container: no container engine answers" \
	  "to '$(ENGINE) version'; start one, or name another: make test-container ENGINE=podman" >&2; exit 1; }
	ENGINE=$(ENGINE) BUILD_NETWORK=$(BUILD_NETWORK) $(BIN)/pytest tests/container -p no:cacheprovider $(PATIENT) $(ARGS)

test-browser: .venv/browser ## look at the page in Chromium, which must be on this machine
	$(BIN)/pytest tests/browser $(ARGS)

screenshots: .venv/browser ## renew the pictures of page and report (writes docs/images/)
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

test-ray: .venv/ray ## predict and train on clusters of Ray, started on this machine
	$(BIN)/pytest tests/ray $(PATIENT) $(ARGS)

.venv/ray: .venv/installed
	$(BIN)/$(INSTALL) --editable '.[ray]'
	@touch $@

.venv/browser: .venv/installed
	$(BIN)/$(INSTALL) --editable '.[browser]'
	@touch $@

kubernetes: .venv-kubernetes/installed ## check the resources for Kubernetes against their schemas
	.venv-kubernetes/bin/python docker/kubernetes/check.py

.venv-kubernetes/installed: docker/kubernetes/requirements.txt
	$(PYTHON) -m venv .venv-kubernetes
	.venv-kubernetes/bin/pip install --quiet --no-deps --requirement $<
	@touch $@

audit: .venv-audit/installed ## look pinned packages up in the index's list of vulnerabilities
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

.venv-audit/installed: docker/supply-chain.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --constraint docker/supply-chain.txt pip-audit
	@touch $@

package: .venv/installed .venv-package/installed ## build wheel and sdist into dist/, check and try them
	rm -f dist/snapensemble-*
	.venv-package/bin/python -m build --no-isolation --outdir dist
	.venv-package/bin/twine check --strict dist/snapensemble-*
	$(BIN)/pytest tests/package -p no:cacheprovider $(PATIENT) $(ARGS)

.venv-package/installed: docker/supply-chain.txt
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/pip install --quiet --constraint docker/supply-chain.txt build twine hatchling hatch-fancy-pypi-readme
	@touch $@

clean: ## remove what the targets made
	rm -rf .venv .venv-serving .venv-audit .venv-kubernetes .venv-package .venv-ray-serve .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
