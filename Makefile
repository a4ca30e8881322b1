# Every target sets up what it needs in its own virtual environment; stamp files make the second run quick.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n 2
# The one torch that comes without gigabytes of GPU libraries where a CPU build is offered under the same version.
TORCH ?= torch==2.13.0
# TensorRT is a check, not a need: a machine it has no packages for goes on without, CI does not.
OR_WITHOUT = || { echo "TensorRT-RTX cannot be installed here: its check will say 'not checked'" >&2; test -z "$$CI"; }

.DEFAULT_GOAL := help
.PHONY: help demo test lint format typecheck bench docs catalogue clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/created.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, PYTHON=... chooses it" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip wheel setuptools
	@touch $@

$(VENV)/demo.stamp: $(VENV)/created.stamp pyproject.toml
	$(PIP) install --quiet -e '.[samples]'
	$(PIP) install --quiet tensorrt-rtx $(OR_WITHOUT)
	@touch $@

$(VENV)/lint.stamp: $(VENV)/created.stamp pyproject.toml
	$(PIP) install --quiet -e '.[dev]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp $(VENV)/lint.stamp
	$(PIP) install --quiet -e '.[dev,samples,torch]' '$(TORCH)'
	@touch $@

demo: $(VENV)/demo.stamp  ## Set up, then repair a real trained model and prove it
	$(BIN)/python samples/magika_demo.py

test: $(VENV)/test.stamp  ## Set up, then run all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/lint.stamp  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/lint.stamp  ## Mend what the formatter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(VENV)/lint.stamp  ## Check types, strictly
	$(BIN)/mypy

bench: $(VENV)/demo.stamp  ## Measure speed and memory
	$(BIN)/python -m benchmarks

docs: $(VENV)/test.stamp  ## Run every code block of the documentation
	$(BIN)/python -m pytest tests/docs

catalogue: $(VENV)/demo.stamp  ## Make the pages of docs/rules from the rule files
	$(BIN)/python -m onnx_fp16fix.proof.catalogue docs/rules

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
