# `make train` and `make test` do everything on a fresh machine: they create .venv if it is missing and install into it.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: train test lint clean

train: .venv/installed
	$(BIN)/seer train --preset quick

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
