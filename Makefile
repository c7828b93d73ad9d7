# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.11 or newer) alone.
.DEFAULT_GOAL := help
.PHONY: help demo test test-data test-install test-slow bench docs lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

help:
	@echo "make demo          set everything up and probe a network on made-up scenes (2 minutes)"
	@echo "make test          set everything up and run the tests"
	@echo "make test-data     the tests on real photographs and weights, at SCALECUT_DATA"
	@echo "make test-install  the tutorial, typed from its installation on, in a fresh environment"
	@echo "make test-slow     the tests that take minutes"
	@echo "make bench         measure speed, what cuts save, and growth with n (an hour and a half)"
	@echo "make docs          build the documentation site into site/"
	@echo "make lint          format, style and types"
	@echo "make clean         delete the environment"

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'scalecut needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
		--compile-bytecode --editable '.[onnx,finetune,fast,cluster]' --group test --group dev --group docs
	touch $@

demo: $(VENV)/ready
	$(BIN)/scalecut demo

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-data: $(VENV)/ready
	$(BIN)/python -m pytest -m 'data and slow'

test-install: $(VENV)/ready
	$(BIN)/python -m pytest -m 'install and slow'

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/ready
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/cuts.py
	$(BIN)/python benchmarks/scaling.py

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

clean:
	rm -rf $(VENV)
