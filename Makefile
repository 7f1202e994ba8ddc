PYTHON ?= python3
BIN := .venv/bin
# One more than cores, as tests also wait; not so many that they starve each other.
PROCESSES := $(shell echo $$(($$(nproc) < 7 ? $$(nproc) + 1 : 8)))

.PHONY: demo test test-all check bench clean

# Where nothing compiled may be kept, torch takes twice as long to import in each of many processes.
export PYTHONDONTWRITEBYTECODE :=

# The main job on sample photos; says where to look.
demo: .venv/demo
	$(BIN)/restyle demo

# All checks, then the tests.
test: check
	$(BIN)/pytest -n $(PROCESSES) --dist loadgroup

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

# uv is several times as fast as pip. It asks PyPI; where only pip knows the way to a mirror, pip it is.
UV := $(BIN)/uv pip install --python $(BIN)/python --quiet --constraint constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) uv
	$(UV) --editable '.[demo]' || $(PIP) --editable '.[demo]'
	touch $@

.venv/installed: .venv/demo
	$(UV) --editable '.[demo,dev]' || $(PIP) --editable '.[demo,dev]'
	touch $@

clean:
	rm -rf .venv demo
