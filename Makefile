PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check bench clean

# The main job on sample photos; says where to look.
demo: .venv/demo
	$(BIN)/restyle demo

# All checks, then the tests.
test: check
	$(BIN)/pytest -n auto --maxprocesses 8

# Those that measure for long, too.
test-all: check
	$(BIN)/pytest -m ""

# Style, types, and that imports go one way: flows -> tasks -> pipeline.
check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# How fast restyle is here, and how much faster than the usual way.
bench: .venv/installed
	$(BIN)/restyle bench --against tests/benchmarks/usual_way.py --against tests/benchmarks/good_afternoon.py

PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '.[demo]'
	touch $@

.venv/installed: .venv/demo
	$(PIP) '.[demo,dev]'
	touch $@

clean:
	rm -rf .venv demo
