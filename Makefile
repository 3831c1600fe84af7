# The one menu of gradmq. It needs make and Python 3.11 or newer, and nothing beforehand:
# every target that uses Python packages installs them into .venv first.

BIN := .venv/bin
STAMP := .venv/installed
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)

PYTHON ?= $(or $(firstword $(INSTALLED)),python3)

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check sim chaos fuzz soak conformance data install clean again

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: $(STAMP) ## train a small language model for 90 s, serve it live, show the result
	@$(BIN)/gradmq run lm

test: $(STAMP) ## run the test suite
	@$(BIN)/pytest

check: $(STAMP) ## lint, format and types, as a change must pass them
	@failed=0; for tool in 'ruff check' 'ruff format --check' mypy; do \
	  echo "== $$tool"; $(BIN)/$$tool || failed=1; done; exit $$failed

SEEDS ?= 20000
FIRST ?= 5000

sim: $(STAMP) ## play SEEDS=20000 simulated schedules from FIRST=5000 on, on all cores
	@$(BIN)/python -m gradmq.sim --seeds $(SEEDS) --first $(FIRST)

chaos: $(STAMP) ## kill and cut off the processes of runs 300 times, check what they did (KILLS=, SEED=)
	@PYTHONPATH=tests $(BIN)/python -m chaos $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

fuzz: $(STAMP) ## a million mutated inputs for every reader, garbage for every port (INPUTS=, SEED=)
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

soak: $(STAMP) ## memory and descriptors of every role under load, and their slopes (MINUTES=30)
	@PYTHONPATH=tests $(BIN)/python -m soak $(if $(MINUTES),--minutes $(MINUTES))

conformance: $(STAMP) ## ask nodes with public clients, each installed into build/clients (CLIENTS=)
	@PYTHONPATH=tests $(BIN)/python -m conformance $(CLIENTS)

data: $(STAMP) ## fetch Fashion-MNIST for `gradmq run fashion-mnist`, without root
	@$(BIN)/python -m gradmq.jobs.fetch

install: $(STAMP) ## install gradmq and its tools into .venv

clean: ## remove .venv, caches and build products; runs/ stays
	@rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find bench broker infer ps src tests worker examples -name __pycache__ -prune -exec rm -rf {} +

# The stamp says what .venv was made for: this Python, in this folder. An environment holds absolute
# paths, so in a copied or moved folder its commands would run the other folder's code.
ifneq ($(PYTHON) $(CURDIR),$(or $(INSTALLED),$(PYTHON) $(CURDIR)))
$(STAMP): again
endif

# torch comes first and by plain pip, so that a CPU build of the version in constraints.txt is
# taken where one is at hand.
$(STAMP): pyproject.toml constraints.txt
	@command -v '$(PYTHON)' >/dev/null || { echo \
	  'gradmq: there is no $(PYTHON); name a Python of 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.version_info >= (3, 11) or sys.exit("gradmq: $(PYTHON) is \
	Python %d.%d; name one of 3.11 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo \
	  'gradmq: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'gradmq: installing into .venv; the first time takes a few minutes'
	@'$(PYTHON)' -m venv $(if $(filter again,$?),--clear) .venv
	@$(PIP_INSTALL) torch
	@$(PIP_INSTALL) -e '.[dev]'
	@echo '$(PYTHON) $(CURDIR)' > $@
