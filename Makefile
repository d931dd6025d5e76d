# Two commands set everything up on a bare machine with Python 3.10 or newer:
#   make demo   a small real model: converted, its prompt proven, answering
#   make test   all tests, against a real Ollama (built once where there is none)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=
FUZZ_ARGS ?=

.PHONY: demo test lint format bench fuzz faults audit constraints clean

# uv unpacks torch in seconds; compiled files make each later start seconds shorter
$(READY): pyproject.toml constraints.txt setup.py Makefile $(wildcard ggufpack/quantize/native/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
	    --constraint constraints.txt --editable '.[engine,demo,test,lint]'
	touch $@

demo: $(READY)
	$(BIN)/ggufpack demo

test: $(READY)
	$(BIN)/python -m tests.support.ollama_build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.one_pass
	$(BIN)/python -m benchmarks.ollama_create
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.kernels

# asks a vulnerability service about every pinned version: needs the network, and is no part of `make test`
audit: $(READY)
	$(BIN)/uv tool run --quiet pip-audit==2.10.1 --strict --requirement constraints.txt --no-deps --disable-pip \
	    || { echo "audit: see above: a version has a known vulnerability, or the service does not know it or cannot be reached" >&2; exit 1; }

# hours: a million executions of each target; FUZZ_ARGS="manifest --seconds 60" for less
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

# an hour: real builds are killed, their disk filled, their server stopped
faults: $(READY)
	$(BIN)/python -m tests.support.ollama_build
	$(BIN)/python -m tests.faults

# names and versions only: no addresses, no hashes of one index; for every Python from 3.10 on
constraints: $(READY)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras --no-annotate \
	    --no-emit-index-url --no-header pyproject.toml > constraints.new
	{ sed -n '/^#/p' constraints.txt; cat constraints.new; } > constraints.tmp
	mv constraints.tmp constraints.txt
	rm constraints.new

clean:
	rm -rf $(VENV) build dist *.egg-info ggufpack/quantize/*.so ggufpack-demo ggufpack-out
