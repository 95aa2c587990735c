# `make demo` and `make test` set up everything that they need themselves.
# `make env` alone prepares .venv; it costs nothing when nothing has changed.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/stamp
.PHONY: help env demo test test-frameworks check docs fuzz soak bench bench-scale clean
.DEFAULT_GOAL := help

help:
	@printf '%s\n' \
	  'make demo    trains, is interrupted, resumes, and proves that nothing was lost' \
	  'make test    runs the tests (against a real RabbitMQ, which it gets if there is none)' \
	  'make test-frameworks   real trainings (PyTorch, Hugging Face, Lightning, torchrun) interrupted and resumed' \
	  'make check   linters, types, import contracts, the agent installed alone' \
	  'make docs    writes docs/messages.md and docs/lifecycles.md from the code' \
	  'make soak    the simulation with SEEDS=100000 seeds, every fault REPEAT=50 times, or as you like, and what is slow' \
	  'make fuzz    fuzzes what decodes and what hears, SECONDS=60 each, with coverage as the guide' \
	  'make bench   measures the numbers that runctl promises to hold, ROWS="start idle" or all' \
	  'make bench-scale  10,000 agents against one controller, for ten minutes' \
	  'make env     only prepares .venv' \
	  'make clean   removes what the other targets made in this folder'

env: $(STAMP)

$(STAMP): pyproject.toml shared/pyproject.toml agent/pyproject.toml controller/pyproject.toml \
          deploy/dev/bootstrap.py deploy/dev/debian.py
	@command -v python3 >/dev/null || { echo 'make env: no python3 on the PATH: install Python 3.11 or newer.'; exit 1; }
	@python3 deploy/dev/bootstrap.py
	@touch $@

demo: env
	@deploy/dev/demo.sh

test: env
	@python3 deploy/dev/install_broker.py
	$(BIN)/pytest -m 'not slow' -n 4 --dist worksteal

test-frameworks: env
	@deploy/dev/frameworks.sh
	$(BIN)/pytest tests/frameworks -n 2 --dist worksteal --timeout 600
	@echo 'make test-frameworks left out: GPUs, several machines, sharded checkpoints (FSDP, DeepSpeed), JAX, TensorFlow'

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 shared/runctl_shared agent/runctl_agent
	$(BIN)/lint-imports
	$(BIN)/python deploy/dev/generate_docs.py --check
	@deploy/dev/agent_alone.sh

docs: env
	$(BIN)/python deploy/dev/generate_docs.py

SEEDS ?= 100000
REPEAT ?= 50
soak: env
	@python3 deploy/dev/install_broker.py
	RUNCTL_SIM_SEEDS=$(SEEDS) $(BIN)/pytest -m simulation --timeout=0 tests/simulation
	$(BIN)/pytest --fault-repeat $(REPEAT) -n 3 --dist worksteal tests/faults
	$(BIN)/pytest -m slow -n 3 --dist worksteal --ignore=tests/faults tests

SECONDS ?= 60
fuzz: env
	@deploy/dev/fuzz.sh $(SECONDS)

BENCH := PYTHONPATH=tests/lib:tests/bench $(BIN)/python -P -m runctl_bench
bench: env
	@python3 deploy/dev/install_broker.py
	@$(BENCH) $(ROWS)

bench-scale: env
	@python3 deploy/dev/install_broker.py
	@$(BENCH) scale

clean:
	rm -rf .venv .venv-agent .venv-fuzz .venv-frameworks .cache dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
