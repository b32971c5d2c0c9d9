# Commands for developers and CI.
#
#   make run     install into .venv, build a knowledge graph of Python's standard library, train a model on it, query it
#   make test    run the tests, except the slow ones
#   make check   run ruff, mypy --strict and import-linter (the layers of the code)
#   make slow    run the slow tests: a wheel in a fresh environment, killed and resumed runs
#   make bench   run the benchmarks, which takes hours; BENCHMARKS=speed selects one of them
#
# PIP_FLAGS are passed to pip. On Linux without an NVIDIA GPU, the CPU build of torch is gigabytes smaller:
#   make run PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
BENCHMARKS ?= speed memory ingest quality peer_quality series series_speed estimates statements sharing checkpoints

.PHONY: run test slow check bench clean
.DELETE_ON_ERROR:

run: build/stdlib.parquet
	@$(BIN)/graphlearn run examples/python_stdlib.sql --workspace build/stdlib.duckdb

build/stdlib.parquet: examples/python_stdlib.py | $(VENV)/.installed-run
	@mkdir -p build
	@$(BIN)/python examples/python_stdlib.py $@

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict examples/python_stdlib.py examples/us_income.py
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "GraphLearn needs Python 3.11 or newer; $(PYTHON) is" `$(PYTHON) -V 2>&1`". Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	@echo "installing GraphLearn and its dependencies into $(VENV) (this takes minutes the first time)"
	@$(PIP) -e '.[plot]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing GraphLearn and its development tools into $(VENV)"
	@$(PIP) -e '.[dev,plot]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	@echo "installing GraphLearn and the libraries it is compared with into $(VENV)"
	@$(PIP) -e '.[bench,plot]'
	@touch $@
