# Two commands on a fresh machine: `make demo` and `make test`. They need only python3 (3.11 or newer).
.DEFAULT_GOAL := help
LINTERS := lint-format lint-style lint-imports lint-types lint-words
.PHONY: help demo check test test-data test-install test-slow test-avx2 test-hard bench bench-scaling gpu-check sweep docs lint format clean
.PHONY: $(LINTERS)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
# Tests of less than two seconds also check the types and shapes of all arguments, a third of their time.
FAST := --jaxtyping-packages=scalecut,beartype.beartype -m 'not slow and not gpu and not long'
LONG := -m 'long and not slow and not gpu'
# Compiled code and tests are kept, also where the environment forbids it: a third less time to collect the tests.
export PYTHONDONTWRITEBYTECODE :=

help:
	@echo "make demo          install scalecut and probe a network on synthetic scenes (1 to 1.5 minutes after installation)"
	@echo "make check         lint and the tests of less than two seconds: what to run before a commit"
	@echo "make test          install all extras and run the tests that take seconds"
	@echo "make lint          format, style, types, import directions and wording"
	@echo "make format        format the code"
	@echo "make test-data     the tests on real images and weights in SCALECUT_DATA"
	@echo "make test-avx2     some tests as on a processor with AVX2 only"
	@echo "make test-install  the tutorial as it is typed, from installation on, and the notebook"
	@echo "make test-slow     the tests that take minutes"
	@echo "make bench         measure what a probe costs, for docs/benchmarks.md (20 minutes)"
	@echo "make bench-scaling growth of time and memory with the number of images (an hour)"
	@echo "make gpu-check     what a GPU changes, for docs/gpu.md (8 minutes on one GPU)"
	@echo "make sweep         try networks of every family for docs/networks.md (an hour; resumable)"
	@echo "make test-hard     kills, full disks and broken files for docs/reliability.md (two hours; root)"
	@echo "make docs          build the documentation site into site/"
	@echo "make clean         delete the environment"

# What a user installs.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'scalecut needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) --compile-bytecode --editable .
	touch $@

# What tests, linters and the documentation need as well.
$(VENV)/ready: $(VENV)/installed
	$(INSTALL) --editable '.[onnx,finetune,fast,cluster,medical,models,slides]' --group test --group dev --group docs
	touch $@

demo: $(VENV)/installed
	$(BIN)/scalecut demo

check: lint
	$(PYTEST) $(WORKERS) $(FAST)

test: $(VENV)/ready
	$(PYTEST) $(WORKERS) $(FAST)
	$(PYTEST) $(WORKERS) $(LONG)

test-data: $(VENV)/ready
	$(BIN)/python -m pytest -m 'data and slow and not hours' tests/test_real_data.py

test-install: $(VENV)/ready
	$(BIN)/python -m pytest -m 'install and slow' tests/docs

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

# An AVX2 processor without AVX512 and VNNI is the usual laptop. One variable each for OpenVINO, PyTorch and numpy.
test-avx2: $(VENV)/ready
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell $(PYTEST) $(WORKERS) --dist=worksteal \
		tests/features/test_backends.py tests/features/test_extract.py tests/stats

test-hard: $(VENV)/ready
	$(INSTALL) --group hard
	$(BIN)/python benchmarks/reliability.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/speed.py

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
	$(MAKE) --no-print-directory --jobs --output-sync --keep-going $(LINTERS)

lint-format:
	$(BIN)/ruff format --check .

lint-style:
	$(BIN)/ruff check .

lint-imports:
	$(BIN)/lint-imports

lint-types:
	$(BIN)/basedpyright

lint-words:
	$(BIN)/python tools/words.py

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)
