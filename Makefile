PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench bench-peers clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[plots]"
	touch $@

demo: $(VENV)/.run
	$(BIN)/lemix demo --out demo-output

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

bench: $(VENV)/.dev
	$(BIN)/python -m pytest tests/benchmarks -o addopts="" -q --benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-json=bench.json
	$(BIN)/python -c 'import json; [print(b["name"], *(f"{k}={v}" for k, v in b["extra_info"].items())) for b in json.load(open("bench.json"))["benchmarks"] if b["extra_info"]]'

.venv-peers/.done: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -e ".[peers]"
	touch $@

bench-peers: .venv-peers/.done
	.venv-peers/bin/python tests/benchmarks/peers.py

clean:
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache
