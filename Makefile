# `make help` lists the targets. PYTHON selects the interpreter, e.g. `make test PYTHON=python3.13`; each interpreter has
# its own virtual environment.

PYTHON ?= python3
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
LISTEN ?= 127.0.0.1:5000
DATA ?= ./data
PURE := tests/ledger tests/lockfile tests/oci tests/policy tests/signatures tests/test_events.py
# A quick check takes tests that reach what differs from SINCE, the nearest ones first until BUDGET_S seconds of processor time
# are used, the first row of each table and few examples of properties.
# `make check HURRY=` takes every test that is neither slow nor real, and starts no PostgreSQL or S3 server, whole.
HURRY ?= yes
BUDGET_S ?= 60
SINCE ?= $(shell git merge-base HEAD origin/HEAD 2>/dev/null || git rev-parse --verify --quiet HEAD)
# Workers get whole files, the longest first by tests/durations.json. ARGS: more options of pytest.
WORKERS := auto
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ARGS ?=
PYTEST := scripts/in-memory $(BIN)/python -m pytest -q
QUICK := -m "not slow and not real$(if $(HURRY), and not lengthy, and not storage)" $(if $(HURRY),--one-row --hypothesis-profile=quick --budget-s $(BUDGET_S) $(if $(SINCE),--changed-since $(SINCE)))
PATHS := src tests scripts $(wildcard bench)

# Without compiled files each process of a target compiles what it imports, and pytest rewrites every test module again: half
# of the time that collecting the tests takes. `make clean` deletes them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv serve serve-postgres serve-replicas demo check check-style check-tests coverage timings test test-engines test-storage test-postgres test-faults test-replicas test-kube test-browser test-stores soak bench lock docs screenshots clean

help:  ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

# Two stamps, one per lock: .runs to run the server, .works to develop it. The second lock contains the first.
$(VENV)/.runs: requirements.lock pyproject.toml scripts/install
	@scripts/install $(PYTHON) $(VENV) requirements.lock

$(VENV)/.works: requirements-dev.lock requirements.lock pyproject.toml scripts/install
	@scripts/install $(PYTHON) $(VENV) requirements-dev.lock

venv: $(VENV)/.works  ## creates the virtual environment for development

serve: $(VENV)/.runs  ## runs the registry on LISTEN (127.0.0.1:5000), its data in DATA (./data)
	@exec $(BIN)/boltseal serve --listen $(LISTEN) --data $(DATA)

serve-postgres: $(VENV)/.works  ## runs the registry on PostgreSQL and an S3 server of this machine, all data in ./data-postgres
	@exec $(BIN)/python -m scripts.serve_postgres --listen $(LISTEN)

serve-replicas: $(VENV)/.works  ## runs two replicas behind nginx on PostgreSQL and an S3 server, all data in ./data-replicas
	@exec $(BIN)/python -m scripts.serve_replicas --listen $(LISTEN)

demo: $(VENV)/.runs  ## shows in a minute, without Docker, that a published tag cannot change
	@$(BIN)/python scripts/demo.py

check: $(VENV)/.works  ## checks format, lint, types, layers, and runs the quick tests of what changed; about a minute
	@$(MAKE) --no-print-directory --output-sync=target -j2 check-style check-tests

check-style: $(VENV)/.works
	@$(BIN)/ruff format --check --quiet $(PATHS) || { echo 'fix it with: $(BIN)/ruff format $(PATHS)' >&2; exit 1; }
	@$(BIN)/ruff check --quiet $(PATHS)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

# Whole files to all workers, but the nearest files first where there is a selection.
check-tests: WORKERS := $(shell echo $$(($$(nproc) + 1)))
check-tests: $(VENV)/.works
	@$(PYTEST) $(if $(HURRY),-n 2 --dist loadfile,$(SPREAD)) $(QUICK) --ignore tests/real --ignore tests/soak || test $$? -eq 5

# Every branch of the pure packages is tested.
coverage: $(VENV)/.works  ## checks that every branch of the pure packages is tested
	@$(BIN)/python -m coverage run -m pytest -q -m "not slow and not real" $(PURE)
	@$(BIN)/python -m coverage report

# Which tests `make check` leaves out as lengthy is measured, not marked by hand.
timings: $(VENV)/.works  ## measures which tests are lengthy, into tests/timings.json
	@$(BIN)/python -m pytest -q -m "not slow and not real" --write-timings

# One worker more than there are processors: these tests often wait for another program, while container engines do work.
test soak: WORKERS := $(shell echo $$(($$(nproc) + 1)))
test: $(VENV)/.works  ## runs all tests but those of the next eight targets; real clients; as root installs missing packages
	@scripts/test-packages
	@$(PYTEST) -m "not engine and not store and not fault and not replicas and not kube and not storage and not browser" $(SPREAD) $(ARGS)

# Two workers more than there are processors: half of the time these tests wait for engines and health checks.
test-engines: WORKERS := $(shell echo $$(($$(nproc) + 2)))
test-engines: $(VENV)/.works  ## runs the tests with container engines: builds, deploys, kept images
	@scripts/test-packages
	@$(PYTEST) -m "engine" $(SPREAD) $(ARGS)

test-browser: WORKERS := $(shell nproc)
test-browser: $(VENV)/.works  ## runs the tests of pages in Chromium
	@scripts/test-packages
	@$(PYTEST) -m "browser" $(SPREAD) $(ARGS)

test-storage: WORKERS := $(shell echo $$(($$(nproc) + 1)))
test-storage: $(VENV)/.works  ## runs the tests that start PostgreSQL or an S3 server: moves, backups, rebuilds, objects
	@scripts/test-packages
	@$(PYTEST) -m "storage" $(SPREAD) $(ARGS)

# `make test` runs each contract on all implementations, and `make test-storage` the tests about PostgreSQL and S3 themselves,
# which start what they need; here registries run on them that otherwise run on SQLite and files. Left out: scrub, which is about hosts and
# has no registry's storage. A second S3 server, radosgw, has the contract of blobs without ranges, deletions, and the sequences of
# chunks that become more than 5 MiB: on `dbstore` it answers a range with other bytes, ignores the conditions of writes, so no
# registry can own a bucket and delete in it, and returns the parts of an object in another order (`test_radosgw.py`).
POSTGRES := tests/server/spec tests/server/seal tests/server/isolation tests/server/registry tests/attacks
test-postgres: WORKERS := $(shell echo $$(($$(nproc) + 1)))
test-postgres: $(VENV)/.works  ## runs the tests of registries on PostgreSQL and an S3 server instead of SQLite and files
	@scripts/test-packages
	@$(PYTEST) --storage=postgres+s3 $(SPREAD) $(ARGS) $(POSTGRES) --ignore tests/attacks/scrub
	@$(PYTEST) --s3-server=radosgw tests/contracts/test_blob_store.py -k "s3 and not range and not while_it_is_written and not delete and not removing and not any_sequence"

# These tests wait for most of their time: for servers that are killed, stopped or slow. So they share no file, and there are more of them
# at once than there are processors.
test-faults test-kube: SPREAD = -n $(WORKERS) --dist worksteal
test-faults: WORKERS := $(shell echo $$(($$(nproc) + 3)))
test-faults: $(VENV)/.works  ## runs the tests that kill, fill and slow PostgreSQL, S3 servers and boltseal
	@scripts/test-packages
	@$(PYTEST) -m "fault" $(SPREAD) $(ARGS)

test-replicas: $(VENV)/.works  ## runs the tests of several servers on one database and bucket
	@scripts/test-packages
	@$(PYTEST) -m "replicas" $(SPREAD) $(ARGS)

test-kube: WORKERS := $(shell echo $$(($$(nproc) + 2)))
test-kube: $(VENV)/.works  ## runs the tests of releases on Kubernetes with kubectl
	@scripts/test-packages
	@$(PYTEST) -m "kube" $(SPREAD) $(ARGS)

test-stores: WORKERS := $(shell echo $$(($$(nproc) + 1)))
test-stores: $(VENV)/.works  ## runs the tests of scrub on the stores of real container engines
	@scripts/test-packages
	@$(PYTEST) -m "store" $(SPREAD) $(ARGS)

# The seeds of the differential test are independent and take equally long, so all workers share them. The tests of each other
# file share fixtures that take long to make, so one worker runs the whole file.
SEEDED := tests/attacks/scrub/test_differential.py
soak: $(VENV)/.works  ## runs the tests that have a full size at it: 50 kills, 4 GiB blobs, 100,000 tags; needs 40 GB of disk
	@scripts/test-packages
	@TEST_SCALE=full $(BIN)/python -m pytest -m sized --ignore $(SEEDED) $(SPREAD) $(ARGS)
	@TEST_SCALE=full $(BIN)/python -m pytest -m sized $(SEEDED) -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(VENV)/.works  ## measures boltseal beside docker-registry and nginx on this machine
	@scripts/test-packages
	@$(BIN)/python -m bench

lock: scripts/lock pyproject.toml  ## updates requirements*.lock to the newest versions, with hashes
	@scripts/lock $(PYTHON)

docs: $(VENV)/.works  ## writes the reference pages and JSON schemas from the code, and builds docs/ as a site in build/site
	@$(BIN)/python scripts/reference.py
	@$(BIN)/python scripts/json-schemas
	@$(BIN)/python scripts/verify_page.py
	@$(BIN)/python scripts/build_pages.py

screenshots: $(VENV)/.works  ## writes the screenshots of pages in docs/operations/pages, with Chromium
	@scripts/test-packages
	@$(BIN)/python -m tests.browser.screenshots docs/operations/pages

clean:  ## deletes everything that make created, but never ./data
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	@find src tests scripts -name __pycache__ -prune -exec rm -rf {} +
