# make demo   the main job on real input: Kafka, Airflow, DuckDB (DEMO_EXIT=1: no waiting at the end)
# make test   lint, types and the whole test suite
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)

.PHONY: setup demo test lint format types unit test-crash test-cluster test-kafka test-airflow fuzz pictures bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[kafka,dev]"
	@touch $@

demo: setup
	$(BIN)/python -m demo

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest tests/unit tests/property tests/contract tests/security tests/typing

test-crash: setup
	$(BIN)/python -m pytest tests/crash

test-cluster: setup
	$(BIN)/python -m pytest tests/cluster

test-kafka: setup
	$(BIN)/python -m pytest tests/kafka

test-airflow: setup
	$(BIN)/python -m pytest tests/airflow

test: lint types
	$(BIN)/python -m pytest

fuzz: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[kafka,dev,fuzz]"
	$(BIN)/python -m tests.fuzz.target

pictures: setup
	$(BIN)/python -m docs.pictures.draw

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf .work .pytest_cache .mypy_cache .ruff_cache .hypothesis
