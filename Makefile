# Every target sets up what it needs; nothing but python3 >= 3.11 (with venv) and pip's registry is expected.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin

.PHONY: demo test test-peers test-large check fix bench wheel clean

demo: $(VENV)/.done
	$(BIN)/cerebras-tool demo

test: $(VENV)/.done
	$(BIN)/python -m pytest

# The comparisons with torch, transformers, gguf and llama.cpp.
test-peers: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest -o addopts="-q --strict-markers" -m "not large" tests/peers

# Gigabytes or minutes: 1.3B, all seven sizes, the wheel.
test-large: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest -o addopts="-q --strict-markers" -m "large or packaging" tests

check: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(PEERS)/.done
	$(PEERS)/bin/python tests/bench/run.py

wheel: $(VENV)/.done
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(PEERS) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.done: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

$(PEERS)/.done: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,peers]"
	touch $@
