# Everything a person does here has a target; `make help` lists them.
# PYTHON chooses the interpreter, e.g. `make test PYTHON=python3.13`; each has a virtual environment of its own.

PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
LISTEN ?= 127.0.0.1:5000
DATA ?= ./data
PURE := tests/ledger tests/lockfile tests/oci tests/policy tests/test_events.py
# A quick check takes tests that reach what differs from SINCE, the first row of each table and few examples of properties.
# `make check HURRY=` takes every test that is neither slow nor real, whole.
HURRY ?= yes
SINCE ?= $(shell git merge-base HEAD origin/HEAD 2>/dev/null || git rev-parse --verify --quiet HEAD)
QUICK := -m "not slow and not real$(if $(HURRY), and not lengthy)" $(if $(HURRY),--one-row --hypothesis-profile=quick $(if $(SINCE),--changed-since $(SINCE)))
PATHS := src tests scripts $(wildcard bench)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv serve demo check check-style check-tests coverage timings test soak bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

# Two stamps, one per lock: to run the server and to work on it. The second lock contains the first.
$(VENV)/.runs: requirements.lock pyproject.toml scripts/install
	@scripts/install $(PYTHON) $(VENV) requirements.lock

$(VENV)/.works: requirements-dev.lock requirements.lock pyproject.toml scripts/install
	@scripts/install $(PYTHON) $(VENV) requirements-dev.lock

venv: $(VENV)/.works  ## the virtual environment with everything needed to work on boltseal

serve: $(VENV)/.runs  ## the registry on LISTEN (127.0.0.1:5000), its data in DATA (./data)
	@exec $(BIN)/boltseal serve --listen $(LISTEN) --data $(DATA)

demo: $(VENV)/.runs  ## a published tag holds: the story in a minute, without Docker
	@$(BIN)/python scripts/demo.py

check: $(VENV)/.works  ## format, lint, types, layers and the quick tests of what changed; under a minute
	@$(MAKE) --no-print-directory --output-sync=target -j2 check-style check-tests

check-style: $(VENV)/.works
	@$(BIN)/ruff format --check --quiet $(PATHS) || { echo 'fix it with: $(BIN)/ruff format $(PATHS)' >&2; exit 1; }
	@$(BIN)/ruff check --quiet $(PATHS)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check-tests: $(VENV)/.works
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(QUICK) --ignore tests/real --ignore tests/soak || test $$? -eq 5

# Every branch of the pure packages is tested.
coverage: $(VENV)/.works
	@$(BIN)/python -m coverage run -m pytest -q -m "not slow and not real" $(PURE)
	@$(BIN)/python -m coverage report

# Which tests `make check` leaves out as lengthy is measured, not marked by hand.
timings: $(VENV)/.works
	@$(BIN)/python -m pytest -q -m "not slow and not real" --write-timings

test: $(VENV)/.works  ## every test, real clients included; installs what they need when root; under twelve minutes
	@scripts/test-packages
	@$(BIN)/python -m pytest -q -n auto --dist loadfile

soak: $(VENV)/.works  ## the slow tests at full size: 50 kills, 4 GiB blobs, 200 pushes of 64 MiB
	@scripts/test-packages
	@BOLTSEAL_TEST_SCALE=full $(BIN)/python -m pytest -m slow

bench: $(VENV)/.works  ## ratios against docker-registry and nginx, on this machine, in one run
	@scripts/test-packages
	@$(BIN)/python -m bench

lock: scripts/lock pyproject.toml  ## newer versions into requirements*.lock, hashes included
	@scripts/lock $(PYTHON)

clean:  ## what was made here, but never ./data
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	@find src tests scripts -name __pycache__ -prune -exec rm -rf {} +
