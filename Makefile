# `make demo`, then `make test`: each makes the environment first when it is missing or out of date.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Threads of one process; runs and tests are put side by side instead.
export OMP_NUM_THREADS ?= 1

# Tests of one marker. Pytest's exit code 5 (nothing collected) is no failure, but it is said.
define test-marked
@$(BIN)/pytest -m '$(1)' $(2); code=$$?; \
if [ $$code -eq 5 ]; then echo "$@: no test is marked '$(1)' yet, so nothing ran"; exit 0; fi; \
exit $$code
endef

.PHONY: help setup demo test test-slow test-slurm test-browser check golden bench gpu clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make the environment .venv; again after pyproject.toml changed

# PIP_EXTRA_INDEX_URL and the other variables of pip choose another source, such as PyTorch's CPU index.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1) but Python 3.11 or newer is needed; name one: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## Plan, train, fit, predict, plot and report the quickstart sweep (about 5 minutes on 2 cores)
	$(BIN)/sweeper plan quickstart
	$(BIN)/sweeper launch quickstart
	$(BIN)/sweeper collect quickstart
	$(BIN)/sweeper fit quickstart
	$(BIN)/sweeper predict quickstart --tokens 4e6
	$(BIN)/sweeper suggest quickstart
	$(BIN)/sweeper plot quickstart
	$(BIN)/sweeper report quickstart --at tokens=4e6
	@folder="$${SWEEPER_RUNS:-runs}/quickstart"; \
	printf '\nThe sweep is trained, fitted and plotted. Look at\n'; \
	printf '  %s\n' "$$folder"/report.html "$$folder"/figures/*.p[nd][gf] "$$folder"/results.csv

test: setup ## Every test without a marker
	@$(BIN)/pytest -m 'not slow and not slurm and not gpu and not browser'

test-slow: setup ## Tests that train for real
	$(call test-marked,slow and not slurm and not gpu and not browser,-n 2)

test-slurm: setup ## Tests that need a SLURM cluster on this machine
	$(call test-marked,slurm)

test-browser: setup ## Tests that need a browser, or that build and install the wheel
	$(call test-marked,browser)

check: setup ## Linter, formatter and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

golden: setup ## Rewrite the golden files; review the difference before committing it
	@$(BIN)/pytest --golden -m 'not slow' tests/golden
	@git status --short -- tests/golden

bench: setup ## Benchmarks (half an hour on 2 quiet cores), or BENCH="NAME …"; BENCH_JSON=FILE also writes their numbers
	@shopt -s nullglob; found=(tests/benchmarks/*.py); \
	if [ -n '$(BENCH)' ]; then found=($(patsubst %,tests/benchmarks/%.py,$(BENCH))); fi; \
	if [ -n '$(BENCH_FLAGS)' ]; then found=($$(grep -l -e --device "$${found[@]}")); fi; \
	if [ $${#found[@]} -eq 0 ]; then echo "bench: tests/benchmarks holds no benchmark yet, so nothing ran"; fi; \
	if [ -n "$$BENCH_JSON" ]; then echo '{"results": []}' >"$$BENCH_JSON" || exit $$?; fi; \
	for script in "$${found[@]}"; do \
	  echo "── $$script"; \
	  $(BIN)/python "$$script" $(BENCH_FLAGS) $${BENCH_JSON:+--json "$$BENCH_JSON"} || exit $$?; \
	done

gpu: setup ## Tests and benchmarks on an NVIDIA GPU
	@if ! nvidia-smi --list-gpus >/dev/null 2>&1; then \
	  echo "gpu: nvidia-smi finds no NVIDIA GPU on this machine, so nothing ran"; \
	else $(MAKE) --no-print-directory test-gpu bench BENCH_FLAGS='--device cuda'; fi

.PHONY: test-gpu
test-gpu: setup
	$(call test-marked,gpu)

clean: ## Remove the environment and the tools' caches, never results
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
