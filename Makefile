# `make serve` and `make test` do everything on a fresh machine with Python 3.11; `make help` lists the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= deploy/profiles/cpu.yaml
ADAPTER ?= deploy/artefacts/lora-1
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes
PEERS := 'litellm[proxy]==1.106.2' vllm-router==0.1.17 sglang-router==0.3.2 ai-dynamo-runtime==1.6.1

.DEFAULT_GOAL := help
.PHONY: help setup weights serve test check lint types contracts quick test-unit e2e bench bench-layers bench-quick bench-gpu bench-peers flywheel-demo golden lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv and install the CPU lock file

# torch first and apart: see deploy/locks/torch-cpu.txt. Where no CPU build is on offer, the plain build comes with its CUDA libraries.
$(STAMP): deploy/locks/cpu.txt deploy/locks/torch-cpu.txt
	@command -v $(PYTHON) >/dev/null || { echo "Tierwise needs Python 3.11 ($(PYTHON) not found; set PYTHON=...)"; exit 1; }
	@echo "[1/2] virtual environment: $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/2] $$(grep -c == deploy/locks/cpu.txt) pinned packages (about 1 GB to download; 1 to 5 minutes)"
	@started=$$(date +%s); \
	$(PIP) -q -r deploy/locks/torch-cpu.txt 2>/dev/null \
	  || { echo "no CPU build of torch on offer: installing the plain one with its libraries"; $(BIN)/python -m pip install -q torch==2.13.0; }; \
	$(PIP) --progress-bar on -r deploy/locks/cpu.txt 2>&1 | grep -E '^(Downloading|Installing|Successfully|ERROR)' | cut -c1-110; \
	$(BIN)/python -c 'import torch, vllm, ray' && echo "installed in $$(( $$(date +%s) - started )) s" && touch $@

weights: $(STAMP) ## fetch, verify and convert the embedded models
	@$(BIN)/python -m models fetch all

serve: weights ## start router, tier 1, stand-in frontier and gateway; Ctrl-C stops everything
	@$(BIN)/python -m serving serve $(PROFILE)

test: weights lint types contracts test-unit e2e ## everything CI runs: lint, types, contracts, unit, journey and end-to-end tests

check: lint types contracts quick ## the inner loop: lint, types, contracts and the quick tests

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

contracts: $(STAMP) ## the import arrows between the folders
	@$(BIN)/lint-imports --no-logo

# Two workers, a file at a time: fixtures of a module, such as a running stack, are made once. `slow` is explained in pyproject.toml.
quick: $(STAMP) ## unit and journey tests that need no Postgres, no browser, no child process and no training
	@$(BIN)/python -m pytest -m "not e2e and not gpu and not slow" -n 2 --dist loadfile -q --ignore tests/e2e --ignore tests/cluster

test-unit: $(STAMP) ## all unit and journey tests: no engine, a few minutes
	@$(BIN)/python -m pytest -m "not e2e and not gpu" -n 2 --dist loadfile -q --ignore tests/e2e --ignore tests/cluster

e2e: weights ## end-to-end tests on real vLLM engines on Ray Serve
	@$(BIN)/python -m pytest -m e2e -q tests/e2e --ignore tests/e2e/test_stack.py --ignore tests/e2e/test_proxy.py
	@$(BIN)/python -m pytest -m e2e -q tests/e2e/test_stack.py tests/e2e/test_proxy.py  # apart: two stacks at once would not fit into memory
	@$(BIN)/python -m pytest -m e2e -q tests/cluster  # hosts are network namespaces; skipped, with the reason, where none can be made

bench: weights ## throughput and latency beside bare engines and peers, kept under benchmarks/results (21 minutes)
	@$(BIN)/python -m benchmarks run

bench-layers: weights ## what routing, gate, caches and kernels are worth one by one, likewise kept (20 minutes)
	@$(BIN)/python -m benchmarks run --sections layers

bench-gpu: ## the same on the NVIDIA GPU of this machine; says first what is missing for it
	@$(BIN)/python -m benchmarks gpu

bench-peers: ## gateways that `make bench` measures beside ours, in an environment of their own (.cache/peers)
	@test -x .cache/peers/bin/python || $(PYTHON) -m venv .cache/peers
	@.cache/peers/bin/python -m pip install --disable-pip-version-check -q $(PEERS)

bench-quick: weights ## the same in at most 3 minutes, on a small model of random weights
	@$(BIN)/python -m benchmarks run --quick

flywheel-demo: weights ## one turn of the flywheel on real engines: before and after, with intervals (at most 30 minutes)
	@$(BIN)/python -m benchmarks flywheel --adapter $(ADAPTER)

golden: $(STAMP) ## rewrite the golden files; review the diff
	@TIERWISE_GOLDEN=1 $(BIN)/python -m pytest -q -m "not e2e and not gpu" -k golden

lock: ## resolve pyproject.toml into deploy/locks/cpu.txt again (needs uv)
	uv pip compile -q pyproject.toml --extra cpu --extra train --extra otel --extra dev --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --overrides deploy/locks/overrides.txt --overrides deploy/locks/overrides-cpu.txt \
	  --no-emit-package torch --no-emit-find-links --generate-hashes --no-header --no-annotate -o deploy/locks/cpu.txt

clean: ## remove caches; keeps .venv and the weights
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
