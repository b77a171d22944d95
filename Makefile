# Every target does its own set-up: Python 3.11, a C++ compiler and pip's package index are enough to start with.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
PY     := $(VENV)/bin/python
# two workers; a file stays on one of them, so that what its tests share is made once
TEST_FLAGS ?= -n 2 --dist loadfile
CPP := $(wildcard csrc/*.* csrc/*/*.* tests/cuda_emulator/*.h tests/cuda_emulator/*.cpp tests/ops/*.cpp)
# what `make test-torch` tests with; the compiled core is for 2.10 and newer
VERSION ?= 2.10.0
OTHER  := .venv-torch-$(VERSION)
# cases of each fuzz test whose case is cheap; of the others fewer
FUZZ_EXAMPLES ?= 3000

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-wheel test-portable test-torch fuzz lint format dist bench-guard gpu-check clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make the virtual environment (.venv), install everything, build the core
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

quickstart: ## fetch real data, train a small Libra Faster R-CNN on the CPU, print AP, draw pictures
	@start=$$(date +%s) && $(MAKE) --no-print-directory setup && $(PY) tools/quickstart.py --started $$start

test: setup ## run every test
	@OMP_NUM_THREADS=1 $(PY) -m pytest -rs $(TEST_FLAGS)

test-wheel: setup ## build the release of the last commit and use it where there is no compiler (many minutes)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -rs -m wheel tests/wheel

test-portable: setup ## run the tests that compute with floats as if on lesser x86-64 processors, 1 and 2 threads (an hour)
	@$(PY) tools/portability.py $(TEST_FLAGS)

test-torch: setup ## run the tests of the ops, with the core as it is built, under another torch: VERSION=2.10.0
	@test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	@$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(VERSION) \
	  numpy pytest hypothesis "setuptools>=77,<81" wheel pyelftools torch-abi-audit
	@OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -q -rs -p no:cacheprovider tests/ops tests/cuda_emulator/test_kernels.py

fuzz: setup ## try to break the readers, the json checks and the ops for minutes, with new cases
	@OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PY) -m pytest -q $(TEST_FLAGS) --hypothesis-show-statistics tests/fuzz

lint: setup ## check style and formatting
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

format: setup ## put the Python, C++ and CUDA files into the project's format
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(CPP)

dist: setup ## build the sdist and the wheel of the last commit, and check them
	@$(PY) tools/make_dist.py

bench-guard: setup ## count the instructions of the CPU core with Valgrind, beside benchmarks/instructions.csv
	@$(PY) benchmarks/instructions.py

gpu-check: ## check the CUDA half on a machine with a GPU, with the torch that its Python has (PARTS=results: that alone)
	@python3 tools/setup_env.py --venv .venv-gpu --host-torch && .venv-gpu/bin/python tools/gpu_check.py $(if $(PARTS),--part $(PARTS))

clean: ## remove what was built and trained
	rm -rf build dist output .pytest_cache .ruff_cache .hypothesis *.egg-info libra_d2/_core_*.so libra_d2/_core_build.json

distclean: clean ## remove the virtual environments and the downloads, too
	rm -rf $(VENV) .venv-gpu .venv-torch-* .cache
