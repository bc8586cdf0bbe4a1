# The two commands are `make run` and `make test`; everything else is for people who work on dingbridge.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SECONDS ?= 600
EXAMPLES := 10000
# One more than there are cores, as many a test waits.
AT_ONCE := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
MINUTES := 30

.PHONY: run test test-long lint bench chaos soak guards fuzz mutants audit install install-dev clean

run: $(VENV)/installed  ## run everything on this machine, against a simulated DingTalk
	@exec $(BIN)/dingbridge run --demo

test: $(VENV)/installed-dev  ## the whole test suite, some files at a time
	$(BIN)/pytest --numprocesses $(AT_ONCE) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/installed-dev  ## the state machine over thousands of random histories, on each datastore
	$(BIN)/python -m tests.convergence --examples $(EXAMPLES)

lint: $(VENV)/installed-dev  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev  ## speed beside peers, into benchmarks/results/; 35 minutes on a quiet machine; ROWS="receiver drain" for some
	$(BIN)/python -m benchmarks $(ROWS)

chaos: $(VENV)/installed-dev  ## faults under load, one after another; half an hour, root for two of them
	$(BIN)/python -m tests.chaos $(ROWS)

guards: $(VENV)/installed-dev  ## take out each guard of the durable path, and see that a test fails; ONLY="words" for some
	$(BIN)/python -m tests.guards $(ONLY)

fuzz: $(VENV)/installed-dev  ## random input for what strangers can reach, so many seconds for each target
	@for target in open_envelope parse; do \
	  mkdir -p var/fuzz/$$target && \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(SECONDS) -max_len=4096 -rss_limit_mb=1024 \
	    -artifact_prefix=var/fuzz/$$target- -print_final_stats=1 var/fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

mutants: $(VENV)/installed-dev  ## whether the tests notice small faults in the crypto
	$(BIN)/python -m tests.mutants

audit: $(VENV)/installed-dev  ## known vulnerabilities of what requirements.txt brings
	@$(BIN)/python .ci/audit.py

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
