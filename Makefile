# The two commands are `make run` and `make test`; everything else is for people who work on dingbridge.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
EXAMPLES := 10000
MINUTES := 30

.PHONY: run test test-long lint chaos soak install install-dev clean

run: $(VENV)/installed  ## run everything on this machine, against a simulated DingTalk
	@exec $(BIN)/dingbridge run --demo

test: $(VENV)/installed-dev  ## the whole test suite
	$(BIN)/pytest

test-long: $(VENV)/installed-dev  ## the state machine over thousands of random histories, on each datastore
	$(BIN)/python -m tests.convergence --examples $(EXAMPLES)

lint: $(VENV)/installed-dev  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(VENV)/installed-dev  ## faults under load, one after another; half an hour, root for two of them
	$(BIN)/python -m tests.chaos $(ROWS)

soak: $(VENV)/installed-dev  ## a big organisation under traffic, faults and kills; then nothing may differ
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("dingbridge needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: install python3-venv, or set PYTHON=…"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

clean:  ## forget the environment and the local data
	rm -rf $(VENV) var
