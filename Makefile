# Everything a person does here starts with `make`; `make help` lists it.
# ARGS go to the command that is run: make demo ARGS="--headless --events 5000", make test ARGS="tests/state -x"

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

ARGS ?=
PYTHON ?=
# Two files of tests at a time: a test of delivery mostly waits. `make test PARALLEL= ARGS="-x tests/state"` for one alone.
PARALLEL ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
UV_VERSION := 0.13.9
BIN := .venv/bin
PACKAGES := dataflows operators state models console

# `dev` holds all that `demo` holds: where it is installed, the demo uses it, so that the two never undo each other.
DEMO := $(if $(wildcard .venv/dev.stamp),.venv/dev.stamp,.venv/demo.stamp)

.PHONY: help demo test check bench chaos kafka lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO) ## replay claims through the whole engine and watch it decide
	@$(BIN)/penstock demo $(ARGS)

test: .venv/dev.stamp ## run the tests; what is skipped says why
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: .venv/dev.stamp ## lint, format, types, and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict $(addprefix --package ,$(PACKAGES))
	$(BIN)/lint-imports

bench: .venv/dev.stamp ## measure the engine against a loop by hand, and exactly once against at least once
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

chaos: .venv/dev.stamp ## kill slots, launcher and broker under load; find what is lost or done twice
	@$(BIN)/python -m tests.chaos.run $(ARGS)

kafka: $(DEMO) ## run Apache Kafka on localhost:9092 until Ctrl-C; ARGS="--brokers 3 --tls --sasl --acls"
	@$(BIN)/python -m console.kafka $(ARGS)

lock: .venv/uv.stamp ## resolve the dependencies again; ARGS=--upgrade takes newer ones
	$(call compile,run,pyproject.toml)
	$(call compile,demo,pyproject.toml --group demo --group build)
	$(call compile,dev,pyproject.toml --group dev)
	@echo uv==$(UV_VERSION) | $(COMPILE) - --no-annotate --output-file deploy/locks/uv.txt >/dev/null

clean: ## remove the environment, caches and data of this folder
	rm -rf .venv .cache .penstock artefacts .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Universal: one file for every platform and both Python versions. No index address: a mirror works as well.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --python $(BIN)/python
compile = $(COMPILE) $(ARGS) $(2) --output-file deploy/locks/$(1).txt >/dev/null

# The set-up. A sync removes what its lock does not name, the project itself too, so the project goes in last.
SYNC = $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .

.venv/demo.stamp: .venv/uv.stamp deploy/locks/demo.txt pyproject.toml
	@echo "installing what the demo needs into .venv ..."
	@$(SYNC) deploy/locks/demo.txt && $(INSTALL)
	@touch $@

.venv/dev.stamp: .venv/uv.stamp deploy/locks/dev.txt pyproject.toml
	@echo "installing what development needs into .venv ..."
	@$(SYNC) deploy/locks/dev.txt && $(INSTALL)
	@rm -f .venv/demo.stamp
	@touch $@

.venv/uv.stamp: deploy/locks/uv.txt deploy/python.sh
	@python=$$(PYTHON="$(PYTHON)" sh deploy/python.sh) || exit 1; \
	test -x $(BIN)/pip || { echo "making .venv with $$python ..."; "$$python" -m venv --clear .venv; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/uv.txt
	@touch $@
