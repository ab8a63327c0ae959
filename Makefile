# The words a person uses; CI uses the same.
#
#   make demo       install, simulate a small cohort, run everything, show where the results are
#   make test       install and test (all but faults; `make test-fast` leaves the slow tests out)
#   make test-faults   processes killed at random, full disks, no locks (needs root; KILLS=24)
#   make real       the same graph on one real person's BOLD   (VERTICES=642, 2562 or 10242)
#   make dev        the Dagster UI of a project on 127.0.0.1   (PROJECT=demo, PORT=3000)
#   make check      formatting, lint, types, the import contract, the docs
#   make docs       the documentation as pages that work offline: site/index.html
#   make bench      every benchmark

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROJECT ?= demo
PORT ?= 3000
VERTICES ?= 642
KILLS ?= 24
# One worker more than cores, for many tests wait for other processes.
CORES := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 7 ] && n=7; echo $$n)
WORKERS ?= $(shell echo $$(($(CORES) + 1)))
PARALLEL = --numprocesses $(WORKERS) --dist loadgroup
BENCHMARKS := sweep correlation train_step geodesic read_cifti individuals overhead scale page start
REAL := $(if $(filter 642,$(VERTICES)),real,real-$(VERTICES))

.DEFAULT_GOAL := help
.PHONY: help demo real dev docs test test-fast test-faults check format bench clean

help:
	@sed -n 's/^#   //p' Makefile

# One stamp per set of dependencies: nothing is installed twice.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@echo "Installing into $(VENV): about 2 GB are downloaded and unpacked, which takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/trend demo demo

real: $(VENV)/.installed
	$(BIN)/trend real $(REAL) --vertices $(VERTICES)

dev: $(VENV)/.installed
	$(BIN)/trend dev $(PROJECT) --port $(PORT)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not faults"

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-faults: $(VENV)/.installed-dev
	TREND_KILLS=$(KILLS) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup tests/faults -m faults

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf $(VENV) site demo real real-*
