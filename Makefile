# Needs a Python of at least 3.11 with venv, and make. Everything else is installed into .venv.
#
#   make run           run the example pipeline on 40,000 real order lines
#   make demo          change data capture between two PostgreSQL databases, live; Ctrl-C ends it
#   make test          install what the tests need and run them
#   make check         format, lint, types, import rules
#   make bench         side by side with the reference loop
#   make bench-suite   the pieces of the hot path, one by one
#   make soak          the crash harness at length
#   make docs          write the generated reference pages anew
#   make clean         remove what runs, tests and builds left; `make distclean`: .venv too

.POSIX:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help run demo install test check bench bench-suite soak docs clean distclean

BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install
PYTEST_ARGS = -n 2
ROUNDS = 200

help:
	@sed -n 's/^#   //p' Makefile

# The first Python that is new enough and can make an environment; `make PYTHON=/path/to/python` overrides it.
.venv/bin/python:
	@set -e; for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Making .venv with $$("$$candidate" --version)"; \
	    exec "$$candidate" -m venv .venv; \
	  fi; \
	done; \
	echo "error: no Python of at least 3.11 with venv was found; install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	exit 2

# Stamps: installed again only when pyproject.toml changes. The installation is editable, so the sources need no stamp.
.venv/.installed: pyproject.toml .venv/bin/python
	@echo "Installing Penstock into .venv"
	@$(PIP) --editable .
	@touch $@

.venv/.installed-demo: .venv/.installed
	@echo "Installing PostgreSQL and its driver into .venv"
	@$(PIP) --editable '.[demo]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing what the tests and checks need into .venv"
	@$(PIP) --editable '.[dev,build]'
	@touch $@

install: .venv/.installed

run: .venv/.installed
	@$(BIN)/pipe run --once pipelines/orders.yaml

demo: .venv/.installed-demo
	@$(BIN)/python -m demo $(DEMO_ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy -p demo
	$(BIN)/lint-imports

bench: .venv/.installed-dev
	$(BIN)/python bench/whole_process.py $(BENCH_ARGS)

bench-suite: .venv/.installed-dev
	$(BIN)/python -m pytest bench --benchmark-enable $(BENCH_ARGS)

soak: .venv/.installed-dev
	PENSTOCK_SOAK_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -m soak -p no:randomly --timeout 0 $(SOAK_ARGS)

docs: .venv/.installed-dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf out .penstock dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
