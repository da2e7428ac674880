# Everything runs in .venv, which `make setup` creates from pyproject.toml and constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime
READY := .venv/.ready
BUDGET ?= 10m

.PHONY: help run test test-slow test-services check setup bench evidence torture docs docs-serve generated new

help:  ## Show these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(RUNTIME)  ## From raw data to a checked server: recipes/digits.yaml
	$(BIN)/fulldeck run recipes/digits.yaml

# What a signal does to a process is tested in one of its own: a worker that it ends would take its other tests along.
SIGNALS := tests/instructions/training/test_fault_tolerant_checkpointing.py

test: check  ## All checks and tests (under 15 minutes)
	$(BIN)/pytest -m "not slow" $(SIGNALS)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --ignore $(SIGNALS)

test-slow: $(READY)  ## The tests that take long
	$(BIN)/pytest -n 2 -m slow

test-services: $(READY)  ## The alert chain on a real Prometheus and Alertmanager, and Ray, all of which it installs
	tests/monitoring/install_services.sh
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[ray]"
	$(BIN)/pytest -m services

check: $(READY)  ## Lint, format, types, import rules, generated files (under a minute)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m fulldeck.generate --check

bench: $(READY)  ## Overhead of the loop, beside other trainers; more in benchmarks/
	$(BIN)/pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benchmarks/loop_overhead.py

evidence: $(READY)  ## What every instruction does, measured for docs/evidence on a quiet machine: BUDGET=10m each; goes on where it was left
	$(BIN)/fulldeck verify --all --resume --budget $(BUDGET) --out docs/evidence

torture: $(READY)  ## Runs killed at 300 points, pairs of processes at 50, faults and bad input at a server
	$(BIN)/python benchmarks/torture.py
	$(BIN)/python benchmarks/torture_serving.py

# The theme announces its successor at each build; that is no warning about these pages.
docs: $(READY)  ## The documentation, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(READY)  ## The documentation at http://127.0.0.1:8001, rebuilt when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

generated: $(READY)  ## Write the files that are generated from the code
	$(BIN)/python -m fulldeck.generate

new: $(RUNTIME)  ## Scaffold a plugin: make new NAME=my_instruction
	$(BIN)/fulldeck new $(NAME)

setup: $(READY)  ## Create .venv with everything that is needed

# The first run needs no linters and no test tools, so it does not wait for them.
$(RUNTIME): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(READY): $(RUNTIME)
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $@
