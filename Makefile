# Two commands on a fresh machine: `make demo` and `make test`. They need only python3 (3.11 or newer).
.DEFAULT_GOAL := help
.PHONY: help demo check test test-data test-install test-slow test-avx2 bench bench-scaling gpu-check sweep docs lint format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS := --numprocesses=auto --maxprocesses=4 --dist=loadfile

help:
	@echo "make demo          install scalecut and probe a network on synthetic scenes (2 minutes)"
	@echo "make test          install all extras and run the fast tests"
	@echo "make check         lint and fast tests: what to run before a commit"
	@echo "make lint          format, style, types, import directions and wording"
	@echo "make format        format the code"
	@echo "make test-data     the tests on real images and weights in SCALECUT_DATA"
	@echo "make test-avx2     some tests as on a processor with AVX2 only"
	@echo "make test-install  the tutorial as it is typed, from installation on, in a fresh environment"
	@echo "make test-slow     the tests that take minutes"
	@echo "make bench         measure speed, what cuts save, and growth with n (an hour and a half)"
	@echo "make bench-scaling growth of time and memory with the number of images (an hour)"
	@echo "make gpu-check     what a GPU changes, for docs/gpu.md (8 minutes on one GPU)"
	@echo "make sweep         try networks of every family for docs/networks.md (an hour; resumable)"
	@echo "make docs          build the documentation site into site/"
	@echo "make clean         delete the environment"

# What a user installs.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'scalecut needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) --editable .
	touch $@

# What tests, linters and the documentation need as well.
$(VENV)/ready: $(VENV)/installed
	$(INSTALL) --editable '.[onnx,finetune,fast,cluster,medical,models]' --group test --group dev --group docs
	touch $@

demo: $(VENV)/installed
	$(BIN)/scalecut demo

check: lint test

test: $(VENV)/ready
	$(PYTEST) $(WORKERS)

test-data: $(VENV)/ready
	$(BIN)/python -m pytest -m 'data and slow and not hours'

test-install: $(VENV)/ready
	$(BIN)/python -m pytest -m 'install and slow'

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

# An AVX2 processor without AVX512 and VNNI is the usual laptop.
test-avx2: $(VENV)/ready
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(WORKERS) tests/features tests/networks tests/stats

bench: $(VENV)/ready
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/cuts.py
	$(BIN)/python benchmarks/scaling.py

bench-scaling: $(VENV)/ready
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/scaling.py --regression

gpu-check: $(VENV)/ready
	$(BIN)/python benchmarks/gpu.py

sweep: $(VENV)/ready
	$(BIN)/python benchmarks/networks.py

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright
	$(BIN)/python tools/words.py

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)
