# The two commands of a newcomer: `make demo` and `make test`. Each prepares .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
PYTEST := $(BIN)/python -m pytest
# Modules are compiled when they are first imported: most of those installed never are.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Processes that share the tests; each takes up to 5 GB.
JOBS   ?= 2
# Compiled XLA programs are reused between test runs, and by the next clone.
export JAX_COMPILATION_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jaxlab/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-evals test test-docs test-interop test-agents browser bench gpu-check lint clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## make .venv from pyproject.toml and constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxlab needs Python 3.11 or newer; $(PYTHON) is older. Try: make setup PYTHON=python3.12"; exit 1; }
	@echo "Preparing $(VENV): installing the pinned dependencies (about 2 GB, one to three minutes)."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -c constraints.txt -e '.[test]'
	@echo "Compiling the modules that the doors and the tests import."
	@$(BIN)/python -c 'import inspect_ai.model, mcp, lm_eval.api.model, IPython' & \
	  $(BIN)/python -c 'import jaxlab.trainers.distill, jaxlab.trainers.probe, jaxlab.exporting, \
	    matplotlib.pyplot, tensorflow_datasets' && wait $$!
	@touch $@
	@echo "$(VENV) is ready."

$(VENV)/.torch: $(VENV)/.installed
	@echo "Adding the torch extra to $(VENV): PyTorch and transformers, for the parity tests."
	@$(PIP) torch==2.13.0
	@$(PIP) -c constraints.txt -e '.[torch,test]'
	@touch $@

$(VENV)/.agents: $(VENV)/.installed
	@echo "Adding the agents extra to $(VENV): ALFWorld, whose planner is compiled the first time."
	@$(PIP) -c constraints.txt -e '.[agents,test]'
	@touch $@

demo: setup  ## train a teacher, distil a weak student three ways, write a report (six and a half minutes on 2 cores)
	@echo "Running the demo: on-policy distillation on the modular sum. Everything goes to $(DEMO)."
	@$(BIN)/python -m jaxlab.train --config=configs/aopd_modsum.py:demo --workdir=$(DEMO)

demo-evals: setup  ## generate General365 problems, train a small model on the seeds, evaluate it
	@echo "Running the evaluation demo. Everything goes to $(DEMO)-evals."
	@$(BIN)/python benchmarks/demo_evals.py --workdir=$(DEMO)-evals

test: setup  ## run the tests (CPU, no network)
	@echo "Running the tests in $(JOBS) processes."
	@$(PYTEST) -n $(JOBS) --dist worksteal

test-docs: setup  ## run the notebooks at tiny size
	@echo "Running the notebooks."
	@$(PYTEST) -m docs -n $(JOBS) --dist worksteal $$(grep -rl "mark.docs" tests --include=*_test.py)

test-interop: $(VENV)/.torch  ## run the parity tests against PyTorch's transformers
	@echo "Running the parity tests against transformers."
	@$(PYTEST) -m interop -n $(JOBS) --dist worksteal $$(grep -rl "mark.interop" tests --include=*_test.py)

test-agents: $(VENV)/.agents  ## run household games beside ALFWorld's own engine
	@echo "Running the tests beside ALFWorld's own engine."
	@$(PYTEST) -m agents

browser:  ## install Chromium, without which the tests of pages are skipped (Debian, as root)
	@apt-get update -q && apt-get install -y -q --no-install-recommends chromium

bench: setup  ## time decoding and training beside the peers that are installed
	@$(BIN)/python benchmarks/decoding.py
	@$(BIN)/python benchmarks/training.py
	@$(BIN)/python benchmarks/loss.py
	@$(BIN)/python benchmarks/kernels.py
	@$(BIN)/python benchmarks/provider.py

gpu-check:  ## check and time the accelerator at hand beside the CPU; ONLY=block_sparse profiles that alone
ifdef ONLY
	@PYTHONPATH=.:kernels $(PYTHON) benchmarks/$(ONLY)_gpu.py
else
	@PYTHONPATH=.:kernels $(PYTHON) benchmarks/gpu_check.py; status=$$?; \
	  $(PYTHON) benchmarks/delta_rule_gpu.py && exit $$status
endif

lint: setup  ## ruff and the type checker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:  ## remove .venv, caches and runs
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build dist runs *.egg-info
